// Behind a recipe for a logger of Node: logs what the test asks for, as pino or winston take it.
const members = JSON.parse(process.env.MEMBERS);
const emit = logger.bindings
  ? (text, more) => logger.info(more, text)
  : (text, more) => logger.info(text, more);

(async () => {
  for (let number = 0; number < Number(process.env.RECORDS); number++) {
    if (number && number === Number(process.env.PAUSE_AT)) {
      await new Promise((resolve) => process.stdin.once('data', resolve));
      process.stdin.destroy();
    }
    emit(`m-${number}${process.env.SUFFIX}`, { ...members, number });
  }
  if (process.env.FAILURE) logger.error(new TypeError('failed'));
})();
