defmodule Hello.Line do
  @moduledoc """
  One connection of the line protocol: every line is answered `VERSION NODE N LINE`, N being how
  many lines this connection has sent. `quit` ends it.
  """

  use GenServer, restart: :temporary

  def start_link(socket) do
    GenServer.start_link(__MODULE__, socket)
  end

  @impl true
  def init(socket), do: {:ok, %{socket: socket, lines: 0}}

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

  @impl true
  def code_change(_old_version, state, _extra), do: {:ok, state}

  defp reply(line, %{socket: socket, lines: lines} = state) do
    version = Application.spec(:hello, :vsn)

    case :gen_tcp.send(socket, ["#{version} #{node()} #{lines + 1} ", line, ?\n]) do
      :ok -> next(%{state | lines: lines + 1})
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
