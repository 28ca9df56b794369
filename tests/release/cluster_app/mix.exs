defmodule Chatter.MixProject do
  use Mix.Project

  def project do
    [
      app: :chatter,
      version: "1.0.0",
      elixir: "~> 1.14",
      deps: [],
      releases: [chatter: [include_executables_for: [:unix]]]
    ]
  end

  def application do
    [
      mod: {:chatter_app, []},
      registered: [:chatter_sup, :chatter_peers, :chatter_post],
      extra_applications: [:inets, :ssl]
    ]
  end
end
