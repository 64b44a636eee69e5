package peer

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	calls *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{calls: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_peer_calls_total",
		Help: "Calls to other nodes. Worry when errors grow while all nodes are up.",
	}, []string{"call", "result"})}
	if reg != nil {
		reg.MustRegister(m.calls)
	}
	return m
}

type controlMetrics struct {
	joined prometheus.Gauge
	lost   prometheus.Counter
}

func newControlMetrics(reg prometheus.Registerer) *controlMetrics {
	m := &controlMetrics{
		joined: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_peer_control_joined",
			Help: "1 while this node is joined to a control node. At 0 it goes on with its last snapshot; new groups and topics wait.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_peer_control_lost_total",
			Help: "How often the stream to the control plane broke or could not be made.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.joined, m.lost)
	}
	return m
}
