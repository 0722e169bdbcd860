// Passes standard input, one line, to the interpreter's socket, and its answer to standard output.
'use strict';
const input = require('fs').readFileSync(0);
const conn = require('net').connect(process.argv[1]);
conn.on('connect', () => conn.write(input));
conn.on('error', (e) => process.exit(e.syscall === 'connect' ? 97 : 0));
conn.pipe(process.stdout);
