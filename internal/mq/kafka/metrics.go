package kafka

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	late          *prometheus.CounterVec // outcome
	retries       *prometheus.CounterVec // why
	epochBumps    prometheus.Counter
	queuedBytes   prometheus.Gauge
	batches       prometheus.Counter
	records       prometheus.Counter
	batchSplits   prometheus.Counter
	fetchErrors   *prometheus.CounterVec // class
	fetchBytes    prometheus.Counter
	resets        *prometheus.CounterVec // why
	skippedBatch  prometheus.Counter
	commits       *prometheus.CounterVec // outcome
	rebalances    *prometheus.CounterVec // kind
	drainOverruns prometheus.Counter
}

// newMetrics registers with reg, which may be nil. Drivers of several clusters share one registry when
// the caller wraps it with a label per cluster.
func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_kafka_" + name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_kafka_" + name, Help: help}, labels)
	}
	m := &metrics{
		late: vec("late_records_total", "Records whose caller was answered maybe-sent at its deadline, by what became of them: stored, failed or unknown. "+
			"Worry when it grows without a broker fault.", "outcome"),
		retries: vec("produce_retries_total", "Batches sent again or waiting for a leader, by cause. Worry when it grows for minutes.", "cause"),
		epochBumps: counter("producer_epoch_bumps_total", "Times a partition gave up an unknown write, or the broker had forgotten the producer, and went on with a new producer epoch. "+
			"Worry whenever it grows: a duplicate is possible."),
		queuedBytes:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_kafka_produce_queued_bytes", Help: "Bytes of records waiting for a broker or in flight."}),
		batches:      counter("produce_batches_total", "Batches answered by brokers."),
		records:      counter("produce_records_total", "Records stored."),
		batchSplits:  counter("produce_batch_splits_total", "Batches cut smaller because the broker found them too large."),
		fetchErrors:  vec("fetch_errors_total", "Failed fetches of a partition, by class.", "class"),
		fetchBytes:   counter("fetch_bytes_total", "Bytes of records as fetched."),
		resets:       vec("fetch_resets_total", "Positions that could not go on: retention, truncated, recreated. Worry about retention: records were lost to the group.", "cause"),
		skippedBatch: counter("fetch_refused_batches_total", "Batches that would decompress beyond the limit or are damaged, reported as errors. Worry always."),
		commits:      vec("commits_total", "Positions committed, by outcome: ok, fenced, failed.", "outcome"),
		rebalances:   vec("group_changes_total", "Assignments given and taken, by kind: added, revoked, lost.", "kind"),
		drainOverruns: counter("group_drain_overruns_total",
			"Revocations handed over before the engine had said it was done. Worry: repeats follow."),
	}
	if reg != nil {
		reg.MustRegister(m.late, m.retries, m.epochBumps, m.queuedBytes, m.batches, m.records, m.batchSplits, m.fetchErrors,
			m.fetchBytes, m.resets, m.skippedBatch, m.commits, m.rebalances, m.drainOverruns)
	}
	return m
}
