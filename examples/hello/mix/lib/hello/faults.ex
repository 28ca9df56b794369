defmodule Hello.Faults do
  @moduledoc """
  Ways in which an application can misbehave, switched on by the environment, so that run-agent
  can be seen to cope. An application of yours has no such module.

      HELLO_START=crash  the application does not start, and the VM ends
      HELLO_PORT=none    a worker: no HTTP
      HELLO_STOP=slow    stopping takes a minute
      HELLO_ORPHANS=N    N processes are started that leave the VM's process group and session
  """

  @slow_stop_ms 60_000

  def starting do
    for _ <- 1..String.to_integer(System.get_env("HELLO_ORPHANS", "0"))//1 do
      :os.cmd('setsid sleep 300 </dev/null >/dev/null 2>&1 &')
    end

    if System.get_env("HELLO_START") == "crash", do: {:error, :asked_to_crash}, else: :ok
  end

  def stopping do
    if System.get_env("HELLO_STOP") == "slow", do: Process.sleep(@slow_stop_ms)
  end

  def serves_http? do
    System.get_env("HELLO_PORT") != "none"
  end
end
