import Config

config :kernel, net_ticktime: 8, logger_level: :warning
