-- Files and programs for specs: a scratch directory of this process, text files in it, and commands run through a shell.
local M = {}

local directory

--- A fresh directory, removed when the test process ends normally or by the system's cleaner.
function M.directory()
  if not directory then
    local pipe = assert(io.popen "mktemp -d")
    directory = pipe:read "*l"
    pipe:close()
    local keeper = newproxy(true)
    getmetatable(keeper).__gc = function() os.execute("chmod -R u+w '" .. directory .. "'; rm -rf '" .. directory .. "'") end
    M.keeper = keeper
  end
  return directory
end

function M.path(name) return M.directory() .. "/" .. name end

--- Writes a file there and returns its path.
function M.write(name, text)
  local path = M.path(name)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

function M.read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a"
  if file then file:close() end
  return text
end

--- Runs a shell command: exit code, standard output, standard error. A signal gives 128 + its number.
function M.run(command)
  local out, err = M.path "stdout", M.path "stderr"
  local file = M.write("command", "(" .. command .. "\n) > '" .. out .. "' 2> '" .. err .. "'\necho $?\n")
  local pipe = assert(io.popen("bash '" .. file .. "' 2>/dev/null"))
  local code = tonumber((pipe:read "*a"):match "(%d+)%s*$")
  pipe:close()
  return code, M.read(out), M.read(err)
end

--- Where the program under test was built: the directory of the native module busted was pointed at.
function M.build() return (package.cpath:match "([^;]*)/%?%.so") end

return M
