// The kept Node interpreter, as python.py is for Python: a server with a worker below it, and the
// same requests and answers. Run with "worker" as its argument it is the worker.
'use strict';
const GRACE = 2000; // milliseconds from an interrupt to the end of the worker
const VALUE = 1 << 16;
const clip = (s) => (s.length > VALUE ? s.slice(0, VALUE) : s);

function work() {
  const vm = require('vm');
  const util = require('util');
  globalThis.require = require('module').createRequire('/');
  const describe = (e) => {
    if (e && typeof e.stack === 'string') {
      const stack = e.stack.split('\n').filter((line) => !/\(?(node:|\[eval\])/.test(line)).join('\n');
      return { name: String(e.name || 'Error'), message: clip(String(e.message)), traceback: clip(stack) };
    }
    return { name: typeof e, message: clip(util.inspect(e)), traceback: '' };
  };
  let current = null;
  const answer = (reply) => {
    if (current === null) return;
    const mark = current;
    current = null;
    // What was written before goes before: the marks are the last of this request in both streams.
    process.stdout.write(mark, () => process.stderr.write(mark, () => process.send(reply)));
  };
  const failed = (e) => answer({ error: describe(e) });
  const stray = (e) => (current === null ? process.stderr.write(describe(e).traceback + '\n') : failed(e));
  process.on('uncaughtException', stray);
  process.on('unhandledRejection', stray);
  // Interrupts what waits; what computes is interrupted by breakOnSigint.
  process.on('SIGINT', () => failed(Object.assign(new Error('interrupted'), { name: 'Interrupted' })));
  process.on('disconnect', () => process.exit(0));
  const evaluate = (script) => script.runInThisContext({ breakOnSigint: true });
  // A script that awaits becomes the body of an async function. What its lines declare is made global,
  // as it would be without await, and its last line is its value if it is an expression.
  const awaiting = (code, filename) => {
    const lines = code.trimEnd().split('\n').map((line) => line.replace(/^(?:const|let|var)\s+([A-Za-z_$][\w$]*)\s*=(?!=)/, 'globalThis.$1 ='));
    const last = lines.pop();
    try {
      return new vm.Script('(async () => {' + lines.join('\n') + '\nreturn (' + last.replace(/;\s*$/, '') + '\n)})()', { filename });
    } catch {
      return new vm.Script('(async () => {' + lines.concat(last).join('\n') + '\n})()', { filename });
    }
  };
  let cell = 0;
  process.on('message', async (req) => {
    current = req.mark;
    const filename = 'cell ' + ++cell;
    try {
      let script;
      let waits = false;
      try {
        script = new vm.Script(req.code, { filename });
      } catch (e) {
        if (!/\bawait\b/.test(req.code)) throw e;
        script = awaiting(req.code, filename);
        waits = true;
      }
      let value = evaluate(script);
      if (waits) value = await value;
      answer(value === undefined ? {} : { value: clip(util.inspect(value)) });
    } catch (e) {
      failed(e);
    }
  });
}

function serve(path, source) {
  const fs = require('fs');
  const net = require('net');
  const crypto = require('crypto');
  const { spawn } = require('child_process');
  let worker = null;
  let lost = '';
  const queue = [];
  let busy = false;

  function start() {
    const child = spawn(process.execPath, ['-e', source, 'worker'], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    const w = { child, fresh: true, on: null, open: 3, how: '' };
    const gone = () => {
      if (--w.open > 0) return; // until both streams are read to their end
      if (worker === w) worker = null;
      if (w.on) w.on('gone');
      else if (!w.ended) lost = 'the interpreter had ended with ' + w.how;
    };
    child.on('exit', (code, signal) => { w.how = signal ? 'signal ' + signal : 'exit code ' + code; gone(); });
    child.stdout.on('data', (d) => w.on && w.on('o', d));
    child.stderr.on('data', (d) => w.on && w.on('e', d));
    child.stdout.on('close', gone);
    child.stderr.on('close', gone);
    child.on('message', (m) => w.on && w.on('reply', m));
    child.on('error', () => {});
    return w;
  }

  function next() {
    if (busy || queue.length === 0) return;
    busy = true;
    const { conn, req } = queue.shift();
    if (conn.destroyed) { busy = false; return next(); }
    if (req.restart) {
      if (worker && !worker.fresh) { worker.ended = true; worker.child.kill('SIGKILL'); worker = null; }
      lost = '';
    }
    if (!worker) worker = start();
    const w = worker;
    const done = { done: true, fresh: w.fresh, lost };
    lost = '';
    w.fresh = false;
    const mark = '\u0000' + crypto.randomBytes(16).toString('hex') + '\n';
    const rest = { o: Buffer.alloc(0), e: Buffer.alloc(0) };
    const marked = { o: false, e: false };
    let reply = null, ended = '', finished = false, timer = null, killer = null;
    const send = (event) => { if (!conn.destroyed) conn.write(JSON.stringify(event) + '\n'); };
    const finish = () => {
      if (finished) return;
      finished = true;
      clearTimeout(timer);
      clearTimeout(killer);
      w.on = null;
      for (const key of ['o', 'e']) if (!marked[key] && rest[key].length) send({ [key]: rest[key].toString('base64') });
      if (ended) {
        w.ended = true;
        if (worker === w) worker = null;
        if (conn.destroyed) lost = ended; else done.lost = ended;
      }
      send(Object.assign(done, reply || {}));
      conn.end();
      busy = false;
      next();
    };
    const interrupt = () => {
      if (killer || finished) return;
      w.child.kill('SIGINT');
      killer = setTimeout(() => {
        ended = 'the interpreter did not stop when it was interrupted, and was ended';
        w.child.kill('SIGKILL');
        finish();
      }, GRACE);
    };
    w.on = (kind, data) => {
      if (kind === 'reply') {
        reply = data;
      } else if (kind === 'gone') {
        ended = ended || 'the interpreter ended with ' + w.how;
        reply = reply || { error: { name: 'InterpreterExited', message: w.how, traceback: '' } };
        return finish();
      } else if (!marked[kind]) {
        // The end may be the beginning of the mark.
        let all = Buffer.concat([rest[kind], data]);
        const at = all.indexOf(mark);
        if (at >= 0) { marked[kind] = true; all = all.subarray(0, at); rest[kind] = Buffer.alloc(0); }
        else { rest[kind] = Buffer.from(all.subarray(Math.max(0, all.length - mark.length + 1))); all = all.subarray(0, all.length - rest[kind].length); }
        if (all.length) send({ [kind]: all.toString('base64') });
      }
      if (reply && marked.o && marked.e) finish();
    };
    conn.on('close', interrupt);
    if (req.timeout > 0) timer = setTimeout(() => { done.timed_out = true; interrupt(); }, req.timeout * 1000);
    w.child.send({ code: req.code, mark }, (err) => { if (err && w.open === 0) w.on && w.on('gone'); });
  }

  fs.mkdirSync(require('path').dirname(path), { recursive: true, mode: 0o700 });
  fs.rmSync(path, { force: true });
  process.on('SIGINT', () => {});
  net.createServer((conn) => {
    let data = '';
    conn.setEncoding('utf8');
    conn.on('error', () => {});
    conn.on('data', (part) => {
      data += part;
      const end = data.indexOf('\n');
      if (end < 0) return;
      conn.removeAllListeners('data');
      conn.on('data', () => {});
      let req;
      try { req = JSON.parse(data.slice(0, end)); } catch { return conn.destroy(); }
      queue.push({ conn, req });
      next();
    });
  }).listen(path, () => { fs.chmodSync(path, 0o600); if (process.send) process.send('ready'); });
}

function main(args, source) {
  if (args[0] === 'worker') return work();
  if (args[0] === 'serve') return serve(args[1], source);
  // The launcher: ends when the server takes requests.
  const { spawn } = require('child_process');
  const child = spawn(process.execPath, ['-e', source, 'serve', args[0]], { detached: true, stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
  child.on('message', () => { child.disconnect(); child.unref(); process.exit(0); });
  child.on('exit', () => process.exit(1));
}

main(process.argv.slice(1), process._eval || '');
