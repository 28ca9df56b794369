defmodule Hello.HTTP do
  @moduledoc """
  One HTTP/1.1 connection.

  `GET /` answers one line: version, node, connected nodes, counter, greeting, and what 0.2.0 adds.
  `GET /env/NAME` answers the bytes of the environment variable NAME, or 404.
  """

  use GenServer, restart: :temporary

  @headers_ms 5000
  @reasons %{200 => "OK", 400 => "Bad Request", 404 => "Not Found", 405 => "Method Not Allowed"}

  def start_link(socket) do
    GenServer.start_link(__MODULE__, socket)
  end

  @impl true
  def init(socket), do: {:ok, socket}

  @impl true
  def handle_cast(:serve, socket), do: next(socket)

  @impl true
  def handle_info({:http, socket, {:http_request, method, target, version}}, socket) do
    case headers(socket, %{}) do
      {:ok, headers} -> respond(socket, method, target, keep?(version, headers))
      {:error, _reason} -> {:stop, :normal, socket}
    end
  end

  def handle_info({:http, socket, {:http_error, _line}}, socket) do
    reply(socket, :GET, {400, "bad request\n"}, false)
  end

  def handle_info({:tcp_closed, socket}, socket), do: {:stop, :normal, socket}
  def handle_info({:tcp_error, socket, _reason}, socket), do: {:stop, :normal, socket}

  defp next(socket) do
    case :inet.setopts(socket, active: :once) do
      :ok -> {:noreply, socket}
      {:error, _closed} -> {:stop, :normal, socket}
    end
  end

  defp headers(socket, headers) do
    case :gen_tcp.recv(socket, 0, @headers_ms) do
      {:ok, {:http_header, _, name, _, value}} -> headers(socket, Map.put(headers, name, value))
      {:ok, :http_eoh} -> {:ok, headers}
      {:ok, {:http_error, line}} -> {:error, line}
      {:error, reason} -> {:error, reason}
    end
  end

  defp keep?(version, headers) do
    case headers |> Map.get(:Connection, "") |> String.downcase(:ascii) do
      "close" -> false
      "keep-alive" -> true
      _ -> version >= {1, 1}
    end
  end

  # A body would have to be read before the next request, so other methods end the connection.
  defp respond(socket, method, {:abs_path, path}, keep?) when method in [:GET, :HEAD] do
    reply(socket, method, route(path), keep?)
  end

  defp respond(socket, method, _target, _keep?) do
    reply(socket, method, {405, "only GET and HEAD\n"}, false)
  end

  defp route("/"), do: {200, greet()}

  defp route("/env/" <> name) do
    case variable(name) do
      nil -> {404, "not set\n"}
      value -> {200, value}
    end
  end

  defp route(_path), do: {404, "not found\n"}

  defp greet do
    version = Application.spec(:hello, :vsn)
    nodes = Node.list() |> Enum.sort() |> Enum.join(",")
    greeting = Application.get_env(:hello, :greeting, "")
    salute = Application.get_env(:hello, :salute, "")
    count = Hello.Counter.next()

    "version=#{version} node=#{node()} nodes=#{nodes} count=#{count} greeting=#{greeting}" <>
      " salute=#{salute} greeter=#{:greeter.greet()} build=#{:hello_mishap.build()}\n"
  end

  # The VM decodes the environment as it decodes file names; this is the way back.
  # (System.get_env/1 takes UTF-8 for granted.)
  defp variable(name) do
    case :os.getenv(String.to_charlist(name)) do
      false -> nil
      value -> :unicode.characters_to_binary(value, :unicode, :file.native_name_encoding())
    end
  end

  defp reply(socket, method, {status, body}, keep?) do
    head = """
    HTTP/1.1 #{status} #{@reasons[status]}\r
    Content-Type: text/plain; charset=utf-8\r
    Content-Length: #{byte_size(body)}\r
    Connection: #{if keep?, do: "keep-alive", else: "close"}\r
    \r
    """

    case :gen_tcp.send(socket, if(method == :HEAD, do: head, else: [head, body])) do
      :ok when keep? -> next(socket)
      _closed_or_done -> {:stop, :normal, socket}
    end
  end
end
