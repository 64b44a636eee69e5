package control

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	writes      prometheus.Counter
	nodesAlive  prometheus.Gauge
	nodesDied   prometheus.Counter
	probeErrors *prometheus.CounterVec
	redelivered prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_control_writes_total",
			Help: "Writes to the control store, each of which made a snapshot.",
		}),
		nodesAlive: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_control_nodes_alive",
			Help: "Nodes that beat. Worry when it is less than what should run.",
		}),
		nodesDied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_control_nodes_died_total",
			Help: "Nodes that fell silent without leaving.",
		}),
		probeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_control_probe_errors_total",
			Help: "Looks at a cluster that found it down. Worry when it grows for a cluster that should be up.",
		}, []string{"cluster"}),
		redelivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_control_dead_letters_redelivered_total",
			Help: "Dead letters that were published again.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.writes, m.nodesAlive, m.nodesDied, m.probeErrors, m.redelivered)
	}
	return m
}
