--- esper help [TOPIC]
return {
  name = "help", usage = "[COMMAND | OP | WORD | MODULE]", doc = "Explains a command, an op, a word or a module.",
  positional = { 0, 1 }, options = {},
  run = function(args)
    local topic = args[1]
    local cli = require "esper.cli"
    if not topic then
      print(cli.overview())
      return true
    end
    for _, c in ipairs(cli.commands) do
      if c[1] == topic then
        print(require("esper.cli.args").help(require("esper.cli." .. topic)))
        return true
      end
    end
    local about, why = require("esper.help").about(topic)
    if not about then return nil, why, "usage" end
    print(about)
    return true
  end,
}
