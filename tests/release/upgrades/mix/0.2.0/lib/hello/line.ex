defmodule Hello.Line do
  @moduledoc """
  One connection of the line protocol: every line is answered `VERSION NODE N LINE words=W`, N
  being how many lines this connection has sent, W how many words. `quit` ends it.
  """

  use GenServer, restart: :temporary

  defstruct [:socket, lines: 0, words: 0]

  def start_link(socket) do
    GenServer.start_link(__MODULE__, socket)
  end

  @impl true
  def init(socket), do: {:ok, %__MODULE__{socket: socket}}

  @impl true
  def handle_cast(:serve, state), do: next(state)

  @impl true
  def handle_info({:tcp, socket, data}, %{socket: socket} = state) do
    case data |> :binary.split(["\r\n", "\n"]) |> hd() do
      "quit" -> {:stop, :normal, state}
      line -> reply(line, state)
    end
  end

  def handle_info({:tcp_closed, socket}, %{socket: socket} = state) do
    {:stop, :normal, state}
  end

  def handle_info({:tcp_error, socket, _reason}, %{socket: socket} = state) do
    {:stop, :normal, state}
  end

  # 0.1.0 kept a map; how many lines there were survives both ways.
  @impl true
  def code_change({:down, _version}, state, _extra) do
    {:ok, Map.take(state, [:socket, :lines])}
  end

  def code_change(_old_version, state, _extra) do
    :ok = :hello_mishap.changing()
    {:ok, struct!(__MODULE__, state)}
  end

  defp reply(line, %{socket: socket, lines: lines} = state) do
    version = Application.spec(:hello, :vsn)
    words = state.words + :hello_words.count(line)
    answer = ["#{version} #{node()} #{lines + 1} ", line, " words=#{words}\n"]

    case :gen_tcp.send(socket, answer) do
      :ok -> next(%{state | lines: lines + 1, words: words})
      {:error, _closed} -> {:stop, :normal, state}
    end
  end

  defp next(%{socket: socket} = state) do
    case :inet.setopts(socket, active: :once) do
      :ok -> {:noreply, state}
      {:error, _closed} -> {:stop, :normal, state}
    end
  end
end
