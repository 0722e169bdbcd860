// Drives aether with a real MCP client: create, run, write, edit, read, a background process, a long output,
// fork if the system can, kill. It ends with an error at the first thing that is not as it should be.
//
// usage: node drive.mjs sdk|client stdio|http ADDRESS...
//   sdk     @modelcontextprotocol/sdk, which speaks revision 2025-11-25
//   client  @modelcontextprotocol/client, which takes the newest revision that both speak
//   stdio   ADDRESS is the server's command and its arguments
//   http    ADDRESS is a URL; the bearer token is in the environment, AETHER_TOKEN
import assert from 'node:assert/strict';

const [library, transport, ...address] = process.argv.slice(2);
const package_ = {
  sdk: async () => ({
    ...(await import('@modelcontextprotocol/sdk/client/index.js')),
    ...(await import('@modelcontextprotocol/sdk/client/stdio.js')),
    ...(await import('@modelcontextprotocol/sdk/client/streamableHttp.js')),
  }),
  client: async () => ({
    ...(await import('@modelcontextprotocol/client')),
    ...(await import('@modelcontextprotocol/client/stdio')),
  }),
}[library];
const { Client, StdioClientTransport, StreamableHTTPClientTransport } = await package_();

const client = new Client({ name: 'mcp-check', version: '1' }, { versionNegotiation: { mode: 'auto' } });
await client.connect(transport === 'stdio'
  ? new StdioClientTransport({ command: address[0], args: address.slice(1), env: process.env, stderr: 'inherit' })
  : new StreamableHTTPClientTransport(new URL(address[0]), {
      requestInit: { headers: { Authorization: `Bearer ${process.env.AETHER_TOKEN}` } },
    }));

async function call(name, args) {
  const result = await client.callTool({ name, arguments: args });
  const text = result.content.map((c) => c.text ?? '').join('');
  assert.ok(text.length > 0, `${name} has no text`);
  return { ...result, text };
}
async function must(name, args) {
  const result = await call(name, args);
  assert.ok(!result.isError, `${name}: ${result.text}`);
  return result.structuredContent;
}

const { tools } = await client.listTools(); // both libraries then check results against output schemas
assert.ok(tools.length <= 10);

// One command, in a sandbox of its own.
const one = await must('run', { command: 'echo out; echo err >&2; exit 3' });
assert.equal(one.exit_code, 3);
assert.equal(one.stdout, 'out\n');
assert.equal(one.stderr, 'err\n');
assert.equal(one.ephemeral, true);

const { id: sandbox, system } = await must('create', {});
await must('write', { sandbox, path: '/work/hello.py', text: 'print(6 * 8)\n' });
await must('write', { sandbox, path: '/work/hello.py', edits: [{ old: '6 * 8', new: '6 * 7' }] });
assert.equal((await must('run', { sandbox, command: 'python3 hello.py', dir: '/work' })).stdout, '42\n');
assert.equal((await must('read', { sandbox, path: '/work/hello.py' })).text, 'print(6 * 7)\n');
assert.deepEqual((await must('read', { sandbox, path: '/work' })).entries.map((e) => e.name), ['hello.py']);

// State of an interpreter.
await must('code', { sandbox, code: 'x = 20' });
assert.equal((await must('code', { sandbox, code: 'x + 1' })).value, '21');
assert.equal((await must('code', { sandbox, code: '1 / 0' })).error.name, 'ZeroDivisionError');

// A long output is cut, and the rest of it is a resource and can be read by range.
const long = await must('run', { sandbox, command: 'seq 1 20000' });
assert.equal(long.truncated, true);
assert.ok(long.stdout.length < 20_000);
const kept = await client.readResource({ uri: `aether://outputs/${long.output}/stdout` });
assert.equal(kept.contents[0].text.split('\n').length, 20_001);
assert.ok((await must('read', { output: long.output, offset: 50_000, max: 100 })).text.length === 100);

// A background process, with input.
const { process: id } = await must('run', { sandbox, command: 'read line; echo "got $line"', background: true });
let state = await must('process', { process: id, action: 'write', data: 'this\n', wait_s: 10 });
for (let i = 0; i < 20 && state.running; i++) state = await must('process', { process: id, wait_s: 1 });
assert.equal((await must('process', { process: id })).stdout.text, 'got this\n');

// Errors say what to do.
const missing = await call('run', { sandbox: 'sbnone', command: 'true' });
assert.equal(missing.isError, true);
assert.equal(missing.structuredContent.error.code, 'not_found');
assert.ok(missing.structuredContent.error.remedy);
assert.equal((await call('run', { cmd: 'true' })).structuredContent.error.code, 'invalid');

// Cancelling a call ends its program.
const abort = new AbortController();
const started = Date.now();
setTimeout(() => abort.abort('enough'), 1000);
await assert.rejects(client.callTool({ name: 'run', arguments: { sandbox, command: 'sleep 4321' } },
  ...(library === 'sdk' ? [undefined] : []), { signal: abort.signal }));
assert.ok(Date.now() - started < 10_000);
const count = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 432[1]'";
let left = '';
for (let i = 0; i < 20 && left !== '0'; i++) {
  left = (await must('run', { sandbox, command: count })).stdout.trim();
}
assert.equal(left, '0', 'a cancelled call left its program');

// Three copies, each of which goes its own way.
const forked = await call('fork', { sandbox, count: 3, commands: ['echo $AETHER_FORK >/work/child'] });
let note;
if (forked.isError) {
  assert.equal(forked.structuredContent.error.code, 'unsupported', forked.text);
  note = 'cannot fork';
} else {
  const { children, kind } = forked.structuredContent;
  assert.equal(children.length, 3);
  for (const [i, child] of children.entries()) {
    assert.equal((await must('read', { sandbox: child.sandbox, path: '/work/child' })).text, `${i}\n`);
    await must('kill', { sandbox: child.sandbox });
  }
  note = `forked (${kind})`;
}
await must('kill', { sandbox });
assert.deepEqual((await must('list', {})).sandboxes, []);
await client.close();
console.log(`${library} over ${transport}: ${system}, ${note}, ok`);
