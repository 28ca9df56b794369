defmodule Hello.Listener do
  @moduledoc """
  One listening port: its connections, each a process of its own, and the acceptor.

  A protocol is a module with `start_link(socket)`. Its connections end with the listener, but
  outlive the acceptor. Options: `:protocol`, `:packet` (how gen_tcp splits what arrives), `:port`.
  """

  use Supervisor

  def child_spec(options) do
    %{super(options) | id: {__MODULE__, options[:protocol]}}
  end

  def start_link(options) do
    Supervisor.start_link(__MODULE__, options)
  end

  @impl true
  def init(options) do
    connections = Module.concat(options[:protocol], Connections)

    children = [
      {DynamicSupervisor, name: connections},
      {Hello.Acceptor, [connections: connections] ++ options}
    ]

    Supervisor.init(children, strategy: :rest_for_one)
  end
end
