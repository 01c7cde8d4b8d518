--- esper store ls|show|why|verify|gc|export|import|rm
local VERBS = {
  ls = { 0, 0, "list the kernels" }, show = { 1, 1, "KEY: everything about one kernel" },
  why = { 1, 1, "NAME|FILE: is it there, and if not, which field of the key differs" },
  verify = { 0, 0, "check every record" }, gc = { 0, 0, "delete by --older and --bytes" },
  export = { 1, 2, "FILE [KEY]: all kernels, or one, into a file" }, import = { 1, 1, "FILE: kernels from a file" },
  rm = { 1, 1, "KEY: delete one kernel" },
}

local function usage()
  local text, lines = require "esper.text", {}
  for _, verb in ipairs(text.keys(VERBS)) do lines[#lines + 1] = ("  esper store %-7s %s"):format(verb, VERBS[verb][3]) end
  return table.concat(lines, "\n")
end

return {
  name = "store", usage = "ls|show|why|verify|gc|export|import|rm [ARGUMENT]", doc = "The artifact store.", positional = { 1, 3 },
  options = {
    { "--set", "k=v", "why: a hyper-parameter", many = true }, { "--mode", "train|eval", "why: eval unless given" },
    { "--dtype", "f32|f64", "why: f32 unless given" },
    { "--older", "DAYS", "gc: delete what is older" }, { "--bytes", "N", "gc: delete the oldest until this much is left" },
    { "--json", nil, "print for machines" },
  },
  notes = usage(),
  run = function(args)
    local verb = args[1]
    local v = VERBS[verb]
    if not v then
      local text = require "esper.text"
      local near = text.nearest(verb, text.keys(VERBS))
      return nil, ("no store command '%s'%s\n%s"):format(verb, near and ", did you mean " .. near .. "?" or "", usage()), "usage"
    end
    if #args - 1 < v[1] or #args - 1 > v[2] then return nil, ("esper store %s %s"):format(verb, v[3]), "usage" end
    return require("esper.cli.store_verbs")[verb](args)
  end,
}
