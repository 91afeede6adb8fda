// Log records through pino-loki: URL, key, records, and when to wait for a line; then it runs until its input ends.
const [url, key, records, pauseAt] = process.argv.slice(2);
const pino = require('pino');

const logger = pino({ name: 'shop' }, pino.transport({
  target: 'pino-loki',
  options: {
    host: url,
    basicAuth: { username: 'anybody', password: key },
    labels: { app: 'checkout' },
    propsToLabels: ['region'],
    batching: { interval: 1 },
  },
}));

(async () => {
  for (let number = 0; number < Number(records); number++) {
    if (number && number === Number(pauseAt)) {
      await new Promise((resolve) => process.stdin.once('data', resolve));
    }
    logger.info({ number, region: 'eu-1', meta: { trace: `t-${number}`, deep: { a: [1] }, flag: true } }, 'paid ü€😀 "q" \\ \n');
  }
})();
