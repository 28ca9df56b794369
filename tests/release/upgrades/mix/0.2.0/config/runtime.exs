import Config

config :hello,
  greeting: System.get_env("GREETING", ""),
  salute: System.get_env("SALUTE", "")

if System.get_env("HELLO_REQUIRE_SECRET") do
  config :hello,
    secret_key_base:
      System.get_env("SECRET_KEY_BASE") || raise("the environment lacks SECRET_KEY_BASE")
end
