defmodule Hello.Counter do
  @moduledoc "State that lives in a process: a counter that every request increments."

  use GenServer

  def start_link(_options) do
    GenServer.start_link(__MODULE__, 0, name: __MODULE__)
  end

  @doc "Increments the counter and returns it."
  def next do
    GenServer.call(__MODULE__, :next)
  end

  @impl true
  def init(count), do: {:ok, count}

  @impl true
  def handle_call(:next, _from, count), do: {:reply, count + 1, count + 1}

  @impl true
  def code_change(_old_version, count, _extra), do: {:ok, count}
end
