-- Every example in README.md and docs/ is run, and its output compared with what the page shows. #process
--   ```lua file=NAME        written to NAME in the examples' directory
--   ```lua then ```text     run by LuaJIT with Esper's paths; the text block is its whole output
--   ```sh                   each "$ command" line is run there; the lines below it are its whole output
local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "*a"
  f:close()
  return text
end

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function run(command)
  local pipe = io.popen(command .. " 2>&1")
  local out = pipe:read "*a"
  pipe:close()
  return out
end

local top = run "pwd":gsub("\n", "")

-- Fenced blocks of a page: { kind =, info =, body = }.
local function blocks(text)
  local list, current = {}, nil
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    local fence, info = line:match "^(```)(.*)$"
    if fence and not current then
      current = { kind = info:match "^%a*", info = info, lines = {} }
    elseif fence then
      current.body = table.concat(current.lines, "\n")
      list[#list + 1], current = current, nil
    elseif current then
      table.insert(current.lines, line)
    end
  end
  return list
end

local function trim(s) return (s:gsub("%s+$", "")) end

describe("documentation #process", function()
  local pages = { "README.md" }
  for path in io.popen("ls docs/*.md"):lines() do pages[#pages + 1] = path end
  for _, page in ipairs(pages) do
    it("examples of " .. page .. " print what it says", function()
      local dir = trim(run "mktemp -d")
      local env = ("cd %s && PATH=%s/build:$PATH ESPER_STORE=%s/store "):format(dir, top, dir)
      local list = blocks(read(page))
      for i, b in ipairs(list) do
        local file = b.info:match "file=(%S+)"
        if file then
          write(dir .. "/" .. file, b.body .. "\n")
        elseif b.kind == "lua" and list[i + 1] and list[i + 1].kind == "text" then
          write(dir .. "/example.lua", ("package.path = '%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;' .. package.path\n"):format(top, top, top)
            .. ("package.cpath = '%s/build/?.so;' .. package.cpath\n"):format(top) .. b.body)
          assert.equal(trim(list[i + 1].body), trim(run(env .. "luajit example.lua")))
        elseif b.kind == "sh" then
          local command, shown = nil, {}
          local function check()
            if command then assert.equal(trim(table.concat(shown, "\n")), trim(run(env .. command))) end
          end
          for line in (b.body .. "\n"):gmatch "([^\n]*)\n" do
            if line:sub(1, 2) == "$ " then
              check()
              command, shown = line:sub(3), {}
            else
              shown[#shown + 1] = line
            end
          end
          check()
        end
      end
      run("rm -rf " .. dir)
    end)
  end

  it("generated pages are up to date", function()
    assert.equal("", run "luajit docs/generate.lua --check")
  end)
end)
