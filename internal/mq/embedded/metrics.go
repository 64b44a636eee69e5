package embedded

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	records, bytes, commits      prometheus.Counter
	busy, diskFull, failures     prometheus.Counter
	retained, retainedBytes      prometheus.Counter
	late, fenced                 prometheus.Counter
	commitSeconds, groupRequests prometheus.Histogram
	freeBytes, queueBytes        prometheus.Gauge
	stopped                      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_embedded_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_embedded_" + name, Help: help})
	}
	histogram := func(name, help string, start, factor float64, n int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_embedded_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(start, factor, n),
		})
	}
	m := &metrics{
		records:       counter("records_total", "Records stored."),
		bytes:         counter("written_bytes_total", "Bytes of batches stored."),
		commits:       counter("commits_total", "Group commits, each with one sync."),
		busy:          counter("busy_total", "Writes refused since too much waits to be synced. Worry when it grows steadily: the disk is too slow."),
		diskFull:      counter("disk_full_total", "Groups of writes refused for want of free space. Worry at once."),
		failures:      counter("failures_total", "Write or sync errors that stopped the store. Worry at once."),
		retained:      counter("retention_records_total", "Records deleted by retention."),
		retainedBytes: counter("retention_bytes_total", "Bytes deleted by retention."),
		late:          counter("late_writes_total", "Writes stored after their caller stopped waiting; the caller was told that they may be."),
		fenced:        counter("fenced_commits_total", "Positions refused since their member does not own the partition. Some come with each rebalance after a crash."),
		commitSeconds: histogram("commit_seconds", "Time of a group commit with its sync.", 0.0001, 2, 16),
		groupRequests: histogram("commit_requests", "Calls answered by one group commit.", 1, 2, 12),
		freeBytes:     gauge("free_bytes", "Free space of the disk at the last write. Worry when it nears the limit."),
		queueBytes:    gauge("queue_bytes", "Bytes that wait to be synced."),
		stopped:       gauge("stopped", "1 while the store is stopped by a write error. Worry at once."),
	}
	reg.MustRegister(m.all()...)
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.records, m.bytes, m.commits, m.busy, m.diskFull, m.failures, m.retained, m.retainedBytes, m.late, m.fenced,
		m.commitSeconds, m.groupRequests, m.freeBytes, m.queueBytes, m.stopped,
	}
}

// unregister lets the same registry take the metrics of the store's next opening.
func (m *metrics) unregister(reg prometheus.Registerer) {
	for _, c := range m.all() {
		reg.Unregister(c)
	}
}
