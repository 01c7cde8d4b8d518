--- Command line arguments: one table describes a command's options, from which parsing, --help and completion follow.
--   option = { "--set", "k=v", "doc", many = true }    a value follows (or --set=k=v); many: may be repeated
--   option = { "--json", nil, "doc" }                   a switch
-- parse gives { [1..n] = positional, set = { "k=v", ... }, json = true } or nil and a message that names the remedy.

local text = require "esper.text"

local M = {}

local function key(name) return (name:gsub("^%-%-", ""):gsub("%-", "_")) end

local function find(options, name)
  for _, o in ipairs(options) do if o[1] == name then return o end end
end

local function unknown(command, name)
  local names = {}
  for i, o in ipairs(command.options) do names[i] = o[1] end
  local near = text.nearest(name, names)
  return ("unknown option %s%s; see esper %s --help"):format(name, near and ", did you mean " .. near .. "?" or "", command.name)
end

function M.parse(command, argv)
  local out, i = {}, 1
  while i <= #argv do
    local a = argv[i]
    local name, inline = a:match("^(%-%-[%w%-]+)=(.*)$")
    name = name or (a:match("^%-%-[%w%-]+$") and a)
    if a == "-h" then name = "--help" end
    if not name then
      if a:sub(1, 1) == "-" and #a > 1 then return nil, unknown(command, a) end
      out[#out + 1] = a
    elseif name == "--help" then
      out.help = true
    else
      local option = find(command.options, name)
      if not option then return nil, unknown(command, name) end
      local value = true
      if option[2] then
        value = inline or argv[i + 1]
        if not inline then i = i + 1 end
        if value == nil then return nil, ("%s needs a value: %s %s"):format(name, name, option[2]) end
      elseif inline then
        return nil, name .. " takes no value"
      end
      if option.many then
        out[key(name)] = out[key(name)] or {}
        table.insert(out[key(name)], value)
      else
        out[key(name)] = value
      end
    end
    i = i + 1
  end
  local low, high = command.positional[1], command.positional[2]
  if not out.help and (#out < low or #out > high) then
    return nil, ("usage: esper %s %s"):format(command.name, command.usage)
  end
  return out
end

--- "k=v" pairs of --set (or another option) as a table, numbers and booleans recognised; nil, message when one is
-- malformed or given twice.
function M.pairs(list, option)
  local out = {}
  option = option or "--set"
  for _, item in ipairs(list or {}) do
    local k, v = item:match("^([%a_][%w_]*)=(.*)$")
    if not k then return nil, ("%s %s: want name=value"):format(option, item) end
    if out[k] ~= nil then return nil, ("%s %s: %s is given twice"):format(option, item, k) end
    if v == "true" or v == "false" then v = v == "true" else v = tonumber(v) or v end
    out[k] = v
  end
  return out
end

function M.help(command)
  local lines = { ("usage: esper %s %s"):format(command.name, command.usage), "", command.doc, "" }
  for _, o in ipairs(command.options) do
    lines[#lines + 1] = ("  %-26s %s"):format(o[1] .. (o[2] and " " .. o[2] or ""), o[3])
  end
  if command.notes then lines[#lines + 1] = "\n" .. command.notes end
  return table.concat(lines, "\n")
end

return M
