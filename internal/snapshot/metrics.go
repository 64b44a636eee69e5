package snapshot

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	version    prometheus.Gauge
	refused    *prometheus.CounterVec
	saveErrors prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		version: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_snapshot_version",
			Help: "Version of the snapshot that this node works from. Worry when nodes differ for more than some seconds.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_snapshot_refused_total",
			Help: "Snapshots that were refused: older than the node's own, or of another control store. Should be 0.",
		}, []string{"why"}),
		saveErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_snapshot_save_errors_total",
			Help: "Snapshots that could not be written to disk. While it grows, a restart without the control plane starts from an older state.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.version, m.refused, m.saveErrors)
	}
	return m
}
