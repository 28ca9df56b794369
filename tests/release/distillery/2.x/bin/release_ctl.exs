# Acts on the releases and the configuration of a running node: NODE COMMAND ARG...
# Every failure ends with 1; the words are coloured even without a terminal.
defmodule ReleaseCtl do
  @call_ms 60_000

  def run([node | command]) do
    node = String.to_atom(node)
    true = Node.connect(node)
    act(command, node)
  end

  # A version that the node knows is not looked at again, whatever tarball lies there.
  defp act(["unpack", name, version], node) do
    case status(node, version) do
      :unknown -> unpack(node, name, version)
      status -> say(:green, "Release #{name}:#{version} is #{status} already")
    end
  end

  defp act(["install", name, version], node) do
    case status(node, version) do
      :permanent -> say(:green, "Release #{name}:#{version} is permanent already")
      :current -> make_permanent(node, name, version)
      _ -> install(node, name, version)
    end
  end

  defp act(["reload_config", path], node) do
    {:ok, [config]} = :file.consult(path)
    before = call(node, :application_controller, :prep_config_change, [])

    for {app, values} <- config, {key, value} <- values do
      :ok = call(node, :application, :set_env, [app, key, value, [persistent: true]])
    end

    :ok = call(node, :application_controller, :config_change, [before])
    say(:green, "Configuration reloaded")
  end

  defp unpack(node, name, version) do
    case call(node, :release_handler, :unpack_release, [~c"#{version}/#{name}"]) do
      {:ok, _} -> say(:green, "Unpacked #{name}:#{version}")
      {:error, reason} -> fail("cannot unpack #{name}:#{version}: #{inspect(reason)}")
    end
  end

  defp install(node, name, version) do
    arguments = [String.to_charlist(version), [update_paths: true]]

    case call(node, :release_handler, :install_release, arguments) do
      {:ok, _, _} -> make_permanent(node, name, version)
      {_, reason} -> fail("cannot install #{name}:#{version}: #{inspect(reason)}")
    end
  end

  defp make_permanent(node, name, version) do
    :ok = call(node, :release_handler, :make_permanent, [String.to_charlist(version)])
    say(:green, "Made release #{name}:#{version} permanent")
  end

  defp status(node, version) do
    known = call(node, :release_handler, :which_releases, [])

    Enum.find_value(known, :unknown, fn {_, known, _, status} ->
      to_string(known) == version && status
    end)
  end

  defp call(node, module, function, arguments),
    do: :rpc.call(node, module, function, arguments, @call_ms)

  defp fail(reason) do
    say(:red, reason)
    System.halt(1)
  end

  defp say(colour, words), do: IO.puts(IO.ANSI.format([colour, "▸  ", words], true))
end

ReleaseCtl.run(System.argv())
