-- The interactive session: through a pipe, and under a terminal made by script(1).
local files = require "support.files"
local help = require "esper.help"
local repl = require "esper.repl"
local tensor = require "esper.tensor"

local ESPER = files.build() .. "/esper"

-- What the session prints when it reads `text` from a pipe.
local function session(text, before)
  local code, out, err = files.run(("export ESPER_STORE='%s'; %s timeout 60 '%s' repl < '%s'"):format(files.path "store", before or "", ESPER,
    files.write("input", text)))
  assert.equal(0, code, err)
  return out
end

describe("repl #process", function()
  it("prints expressions, goes on after errors, takes chunks of several lines", function()
    local out = session('1 + 1\n"a", nil, 3\nerror("no")\nnosuch.field\nfor i = 1, 2 do\nprint(i * 10)\nend\n= 7\nx = 5\nx\nlocal\n)\n"end"\n')
    assert.truthy(out:find "^2\na\nnil\n3\nerror: no\nerror: line 1: .-\n10\n20\n7\n5\nerror: .-\nend\n$", out)
    assert.equal("error: nosuch.npy: cannot open it: No such file or directory (ENOTFOUND)\nnil\n", session 'load("nosuch.npy")\n({}).x\n')
  end)

  it("runs blueprints and explains things", function()
    local out = session('k = compile("transformer/mlp", { set = { dim = 8, expand = 2 } })\nr = run("transformer/mlp", { x = randn{ 1, 2, 8 } }, '
      .. '{ set = { dim = 8, expand = 2 } })\nr.y\nhelp("softmax")\nhelp("nosuchthing")\n#catalogue()\n')
    assert.truthy(out:find("f32[1, 2, 8]", 1, true) and out:find("op softmax", 1, true) and out:find("nothing is known as", 1, true) and out:find "\n32\n$", out)
  end)

  it("survives a megabyte in a line, invalid UTF-8, escape sequences, an unfinished chunk", function()
    local out = session("#'" .. ("x"):rep(2 ^ 20) .. "'\n'\255\254'\n'a\\27[31mb'\n'\27]0;title\7'\n1\nfor i = 1, 2 do\n")
    assert.truthy(out:find "^1048576\n", out:sub(1, 100))
    assert.falsy(out:find "\27")
    assert.truthy(out:find "\n1\n")
  end)

  it("reads an edited recipe and pass again after reload()", function()
    local tree = files.path "live"
    os.execute("mkdir -p '" .. tree .. "'; cp -r lua kernels blueprints docs '" .. tree .. "/'")
    local out = session(('t = "%s/lua/esper/passes/dead.lua"\nrequire("esper.passes.dead").name\nf = io.open(t, "w") f:write([[return { name = "edited", '
      .. 'version = 1, run = function(g) return g end }]]) f:close()\nrequire("esper.passes.dead").name\nreload()\nrequire("esper.passes.dead").name\n')
      :format(tree), "export ESPER_LUA_DIR='" .. tree .. "';")
    assert.truthy(out:find "^dead\ndead\n%d+ modules will be read again\nedited\n$", out)
  end)

  it("completes names, fields and blueprints", function()
    local env = { esper = { compile = 1, catalogue = 2, other = 3 }, epsilon = 1 }
    assert.same({ "esper.catalogue", "esper.compile" }, repl.candidates(env, "esper.c", "esper.c", 0))
    assert.same({ "epsilon", "esper" }, repl.candidates(env, "e", "e", 0))
    assert.same({}, repl.candidates(env, "esper.nosuch.x", "esper.nosuch.x", 0))
    local found = repl.candidates(env, "transformer/ml", 'compile("transformer/ml', 9)
    assert.truthy(found[1] == "transformer/mlp" and found[2] == "transformer/mlp_small")
  end)

  it("shows tensors and tables briefly and without control characters", function()
    local nan = tensor.from { { 0 / 0, 1 / 0 }, { -1 / 0, 1e30 } }
    assert.truthy(tostring(nan):find "nan" and tostring(nan):find "inf")
    assert.equal("f32[0, 3]", tostring(tensor.new("f32", { 0, 3 })))
    assert.is_true(#tostring(tensor.new("f32", { 1000, 1000 })) < 2000)
    assert.falsy(repl.show { "a\27[0m\0b" }:find "[%z\27]")
    local loop = {}
    loop.loop = loop
    assert.truthy(repl.show(loop))
    assert.truthy(help.about() and help.about "kernel" and help.about(tensor.randn))
  end)

  -- Types `keys` once `wait` has appeared in the transcript, for each pair in turn.
  local function terminal(pairs_of)
    local lines = { ("export ESPER_STORE='%s' HOME='%s' TERM=xterm"):format(files.path "store", files.directory()),
      ("out='%s'; : > $out; rm -f $out.in; mkfifo $out.in"):format(files.path "screen"),
      ("timeout 60 script -qfec '%s repl' $out < $out.in > /dev/null & exec 3> $out.in"):format(ESPER),
      "await() { for i in $(seq 600); do grep -aq \"$1\" $out && return; sleep 0.05; done; exit 3; }" }
    for _, pair in ipairs(pairs_of) do lines[#lines + 1] = ("await '%s'; printf '%s' >&3"):format(pair[1], pair[2]) end
    lines[#lines + 1] = "exec 3>&-; wait"
    local code = files.run(table.concat(lines, "\n"))
    return code, files.read(files.path "screen")
  end

  it("stops an endless loop on Ctrl-C and goes on", function()
    local code, screen = terminal { { "esper>", "n = 0 print(5 * 111) while true do n = n + 1 end\\r" }, { "555", "\\003" },
      { "interrupted", "print(6 * 111)\\r" }, { "666", "print(7 * 111) while true do pcall(error) end\\r" }, { "777", "\\003" },
      { "interrupted.*", "print(8 * 111)\\r" }, { "888", "\\004" } }
    assert.equal(0, code, screen)
  end)
end)
