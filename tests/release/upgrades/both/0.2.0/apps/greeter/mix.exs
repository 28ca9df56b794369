defmodule Greeter.MixProject do
  use Mix.Project

  @external_resource "src/greeter.app.src"
  {:ok, [{:application, :greeter, spec}]} = :file.consult("src/greeter.app.src")
  @spec_of_app spec

  def project do
    [app: :greeter, version: to_string(@spec_of_app[:vsn]), deps: []]
  end

  def application do
    Keyword.take(@spec_of_app, [:mod, :registered])
  end
end
