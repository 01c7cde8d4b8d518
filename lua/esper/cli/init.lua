--- The esper command. `return main(argv, rearm)` with the exit code: 0 ok, 1 failed, 2 misuse.
-- A command is a module esper.cli.NAME: { name, usage, doc, positional = {min, max}, options = {...}, run = function(args) }.
-- run returns true, or nil and a message (exit 1), or nil, message, "usage" (exit 2). With --json, what it returns as
-- second value (a table) is printed as JSON, failures too.

local M = {}

-- Name and one line each, in the order of `esper help`; modules are loaded only when used.
M.commands = {
  { "compile", "compile a blueprint into a certified kernel" },
  { "run", "run a blueprint on tensors" },
  { "validate", "prove kernels right and in bounds" },
  { "tune", "measure the best sizes for this machine" },
  { "bench", "time kernels beside libtorch and the machine's peak" },
  { "profile", "show what each kernel of a plan takes and moves" },
  { "dump", "show one stage of a compilation" },
  { "store", "look into and tend the artifact store" },
  { "doctor", "show what was found on this machine" },
  { "demo", "compile, prove and run the whole catalogue" },
  { "repl", "interactive session (also: esper alone)" },
  { "help", "explain a command, an op or a word" },
}

local function known(name)
  for _, c in ipairs(M.commands) do if c[1] == name then return true end end
end

local function overview()
  local lines = { "usage: esper [COMMAND] [ARGUMENTS]", "",
    "Esper turns blueprints (neural-network graphs in Lua) into certified native kernels.", "" }
  for _, c in ipairs(M.commands) do lines[#lines + 1] = ("  %-9s %s"):format(c[1], c[2]) end
  lines[#lines + 1] = "\nesper COMMAND --help tells more; esper alone starts a session."
  return table.concat(lines, "\n")
end
M.overview = overview

local function misuse(message)
  io.stderr:write("esper: ", message, "\n")
  return 2
end

local function fail(args, message, kind)
  if args and args.json then
    print(require("esper.json").encode { status = "FAILED", error = message })
  end
  io.stderr:write("esper: ", message, "\n")
  return kind == "usage" and 2 or 1
end

local function main(argv, rearm)
  local name = argv[1]
  if name == nil then name = "repl" end
  if name == "--help" or name == "-h" then print(overview()) return 0 end
  if name == "--version" then print("esper " .. require("esper.version")) return 0 end
  if not known(name) then
    local names = {}
    for i, c in ipairs(M.commands) do names[i] = c[1] end
    local near = require("esper.text").nearest(name, names)
    return misuse(("unknown command %s%s; esper help lists the commands"):format(name,
      near and ", did you mean " .. near .. "?" or ""))
  end
  local command = require("esper.cli." .. name)
  local args = require "esper.cli.args"
  local parsed, problem = args.parse(command, { unpack(argv, 2) })
  if not parsed then return misuse(problem) end
  if parsed.help then print(args.help(command)) return 0 end
  local ok, result, message, kind = xpcall(function() return command.run(parsed, rearm) end, function(e)
    return os.getenv("ESPER_TRACE") and debug.traceback(tostring(e)) or tostring(e)
  end)
  if not ok then return fail(parsed, result) end
  if not result then return fail(parsed, message, kind) end
  if parsed.json and type(message) == "table" then print(require("esper.json").encode(message)) end
  return 0
end

return setmetatable(M, { __call = function(_, ...) return main(...) end })
