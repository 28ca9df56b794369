defmodule Hello.Application do
  @moduledoc """
  The tree: the counter, the tally, then a listener for each port that is asked for.

  HTTP is served on PORT (4000), the line protocol on TCP_PORT where that is set.
  """

  use Application

  @impl true
  def start(_type, _args) do
    with :ok <- Hello.Faults.starting() do
      tally = %{id: :hello_tally, start: {:hello_tally, :start_link, []}}
      children = [Hello.Counter, tally | listeners()] ++ :hello_mishap.children()
      Supervisor.start_link(children, strategy: :one_for_one, name: Hello.Supervisor)
    end
  end

  @impl true
  def prep_stop(state) do
    Hello.Faults.stopping()
    state
  end

  defp listeners do
    http = if Hello.Faults.serves_http?(), do: System.get_env("PORT", "4000")
    line = System.get_env("TCP_PORT")

    for {protocol, packet, port} <- [{Hello.HTTP, :http_bin, http}, {Hello.Line, :line, line}],
        port do
      {Hello.Listener, protocol: protocol, packet: packet, port: String.to_integer(port)}
    end
  end
end
