// Logs RECORDS records through CLIENT, splunk-logging or winston, to an Inlet on PORT with KEY.
"use strict";

const { CLIENT, PORT, KEY, RECORDS } = process.env;
const count = Number(RECORDS);
const splunk = { host: "127.0.0.1", port: Number(PORT), protocol: "http", token: KEY };
const failed = (error) => {
  console.error(String(error));
  process.exitCode = 1;
};

if (CLIENT === "winston") {
  const winston = require("winston");
  const SplunkStreamEvent = require("winston-splunk-httplogger");
  const transport = new SplunkStreamEvent({ splunk: { ...splunk, source: "checkout", sourcetype: "shop" } });
  const logger = winston.createLogger({ transports: [transport] });
  transport.on("error", failed);
  for (let number = 0; number < count; number += 1) {
    logger.info(`paid ü€😀 ${number}`, { region: "eu", nested: { list: [1, "zwei", null] } });
  }
} else {
  const { Logger } = require("splunk-logging");
  const logger = new Logger({ ...splunk, maxBatchCount: 100, maxRetries: 5 });
  logger.error = failed;
  for (let number = 0; number < count; number += 1) {
    logger.send({
      message: `paid ü€😀 ${number}`,
      severity: "warn",
      metadata: { source: "checkout", sourcetype: "shop", index: "main", host: "web-1", time: 1769903999.123 },
    });
  }
}
