--- Options several commands share, checked and turned into what esper.compile takes.
local args_module = require "esper.cli.args"

local M = {}

local function one_of(name, value, allowed)
  if value == nil then return true end
  for _, a in ipairs(allowed) do if a == value then return true end end
  return nil, ("%s %s: wanted %s"):format(name, value, table.concat(allowed, " or "))
end

-- --size k=v as { [symbolic dimension] = value }; nil, message.
local function sizes(list)
  local size, why = args_module.pairs(list, "--size")
  if not size then return nil, why end
  for name, v in pairs(size) do
    if type(v) ~= "number" or v < 1 or v % 1 ~= 0 or v > 2 ^ 40 then
      return nil, ("--size %s=%s: want a whole number of at least 1"):format(name, tostring(v))
    end
  end
  return size
end

--- { set=, mode=, dtype=, passes=, size= } or nil, message.
function M.compile(args)
  local set, why = args_module.pairs(args.set)
  if not set then return nil, why end
  for _, check in ipairs { { "--mode", args.mode, { "train", "eval" } }, { "--dtype", args.dtype, { "f32", "f64" } },
      { "--target", args.target, { "cpu" } } } do
    local ok, problem = one_of(unpack(check))
    if not ok then return nil, problem end
  end
  local options = { set = set, mode = args.mode, dtype = args.dtype }
  options.size, why = sizes(args.size)
  if not options.size then return nil, why end
  if args.passes then
    local file, problem = io.open(args.passes, "rb")
    local text = file and file:read("*a")
    if file then file:close() end
    if not text then return nil, "--passes: cannot read " .. (problem or args.passes) end
    options.passes = { text = text, name = args.passes }
  end
  return options
end

--- A whole number option; nil, message when it is none.
function M.whole(name, value, default)
  if value == nil then return default end
  local n = tonumber(value)
  local whole = n and n == math.floor(n) and n >= 0 and n < 2 ^ 53
  if not whole then return nil, ("%s %s: want a whole number of at least 0"):format(name, value) end
  return n
end

--- Writes a file a command was asked for: true | nil, message.
function M.write(name, path, text)
  local file, why = io.open(path, "wb")
  local ok = file and file:write(text)
  if file then ok = file:close() and ok end
  if not ok then return nil, ("%s: cannot write %s"):format(name, why or path) end
  return true
end

return M
