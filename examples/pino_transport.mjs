// A transport for pino that sends its lines to Inlet, in batches: what arrives while a request is under way is the next
// batch. The recipe for pino in docs/clients.md uses it. Options: url (of /ingest/json), key (a key of Inlet, if any).
import { setTimeout as pause } from 'node:timers/promises';
import build from 'pino-abstract-transport';

const BATCH_LINES_MAX = 500;
const RETRY_MS = 1000;

export default function ({ url, key }) {
  const headers = { 'content-type': 'application/x-ndjson', ...(key && { authorization: `Bearer ${key}` }) };
  const waiting = [];
  let sending;

  // Whether the lines are stored, or never will be.
  async function post(body) {
    try {
      const answer = await fetch(url, { method: 'POST', headers, body });
      await answer.text();
      if (answer.status < 500 && answer.status !== 408 && answer.status !== 429) {
        if (!answer.ok) console.error(`Inlet refused records: ${answer.status}`);
        return true;
      }
    } catch {} // no connection: tried again
    return false;
  }

  async function send() {
    while (waiting.length) {
      const body = waiting.splice(0, BATCH_LINES_MAX).join('\n');
      while (!(await post(body))) await pause(RETRY_MS);
    }
    sending = undefined;
  }

  return build((source) => {
    source.on('data', (line) => {
      waiting.push(line);
      sending ??= send();
    });
  }, { parse: 'lines', close: () => Promise.resolve(sending) });
}
