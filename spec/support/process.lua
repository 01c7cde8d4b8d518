-- Runs programs from specs: one shell command, its output and exit code.
local M = { build = os.getenv "ESPER_BUILD" or "build" }

--- output (stdout and stderr together, unless redirected in the command), exit code; 128 + n for signal n.
function M.run(command)
  local pipe = io.popen("( " .. command .. "\n) 2>&1; echo \"exit:$?\"")
  local text = pipe:read "*a"
  pipe:close()
  local output, code = text:match("^(.*)exit:(%d+)\n$")
  return output, tonumber(code)
end

--- As run, but anything but exit code 0 is an error that shows the output.
function M.must(command)
  local output, code = M.run(command)
  if code ~= 0 then error(("%s: exit code %s\n%s"):format(command, tostring(code), output), 2) end
  return output
end

function M.directory() return (M.must("mktemp -d -p ${TMPDIR:-/tmp} esper-spec-XXXXXX"):gsub("%s+$", "")) end
function M.remove(directory) M.must("rm -rf -- '" .. directory .. "'") end

function M.write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

function M.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

return M
