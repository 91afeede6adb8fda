// Sends the records of a file with OpenTelemetry's own exporter, configured by OTEL_* variables alone.
// node send.cjs <http|proto> <file>: half of them, then, after a line on stdin, the rest.
const { readFileSync } = require('node:fs');
const { once } = require('node:events');
const { TraceFlags, trace, ROOT_CONTEXT, diag, DiagConsoleLogger, DiagLogLevel } = require('@opentelemetry/api');
const { BatchLogRecordProcessor, LoggerProvider } = require('@opentelemetry/sdk-logs');
const { detectResources, envDetector } = require('@opentelemetry/resources');

const [kind, file] = process.argv.slice(2);
const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${kind}`);
diag.setLogger(new DiagConsoleLogger(), DiagLogLevel.WARN);

const revive = (value) => {
  if (Array.isArray(value)) return value.map(revive);
  if (value === null || typeof value !== 'object') return value;
  if ('bytes' in value) return Uint8Array.from(value.bytes);
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, revive(member)]));
};

async function main() {
  const records = JSON.parse(readFileSync(file, 'utf8'));
  const provider = new LoggerProvider({
    resource: detectResources({ detectors: [envDetector] }),
    processors: [new BatchLogRecordProcessor({ exporter: new OTLPLogExporter(), scheduledDelayMillis: 100 })],
  });
  const logger = provider.getLogger('app', '1.2', { schemaUrl: 'https://example.com/scope' });
  const emit = ({ seconds, nanos, traceId, spanId, ...record }) =>
    logger.emit({
      ...record,
      body: revive(record.body),
      attributes: revive(record.attributes),
      timestamp: [seconds, nanos],
      observedTimestamp: [seconds, nanos + 1],
      context: trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags: TraceFlags.SAMPLED }),
    });
  const half = records.length / 2;
  records.slice(0, half).forEach(emit);
  await provider.forceFlush();
  console.log('half');
  await once(process.stdin, 'data');
  records.slice(half).forEach(emit);
  await provider.forceFlush();
  await provider.shutdown();
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
