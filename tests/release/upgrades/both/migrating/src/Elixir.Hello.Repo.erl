%% @doc What stands for the application's Ecto repository.
-module('Elixir.Hello.Repo').

-export([config/0]).

config() ->
    [{otp_app, hello}].
