defmodule Hello.Acceptor do
  @moduledoc "Owns a listening socket and hands each connection to a process of its own."

  # So often the loop calls itself by its full name, and a hot upgrade takes it along.
  @accept_ms 1000

  # Out of file descriptors: time for connections to close, instead of a busy loop.
  @exhausted_ms 100

  # The longest header, or line, that arrives in one piece.
  @line_bytes 16_384

  def child_spec(options) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}}
  end

  def start_link(options) do
    :proc_lib.start_link(__MODULE__, :init, [options])
  end

  def init(options) do
    case :gen_tcp.listen(options[:port], listen_options(options[:packet])) do
      {:ok, listen} ->
        :proc_lib.init_ack({:ok, self()})
        accept(listen, options[:protocol], options[:connections])

      {:error, reason} ->
        :proc_lib.init_ack({:error, {:listen, options[:port], reason}})
    end
  end

  def accept(listen, protocol, connections) do
    case :gen_tcp.accept(listen, @accept_ms) do
      {:ok, socket} -> hand_over(socket, protocol, connections)
      {:error, reason} when reason in [:emfile, :enfile] -> Process.sleep(@exhausted_ms)
      {:error, reason} when reason in [:timeout, :econnaborted] -> :ok
    end

    __MODULE__.accept(listen, protocol, connections)
  end

  # The connection becomes active only once it belongs to its process: nothing is lost.
  defp hand_over(socket, protocol, connections) do
    {:ok, pid} = DynamicSupervisor.start_child(connections, {protocol, socket})
    :ok = :gen_tcp.controlling_process(socket, pid)
    GenServer.cast(pid, :serve)
  end

  defp listen_options(packet) do
    [
      :binary,
      packet: packet,
      buffer: @line_bytes,
      active: false,
      backlog: 1024,
      reuseaddr: true,
      nodelay: true
    ]
  end
end
