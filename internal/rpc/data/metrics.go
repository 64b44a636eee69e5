package data

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sessions   prometheus.Gauge
	returned   *prometheus.CounterVec
	remote     *prometheus.CounterVec
	goAways    *prometheus.CounterVec
	windowFull prometheus.Counter
}

// newMetrics registers with reg; a nil reg counts without showing.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_data_pull_sessions", Help: "Kept sessions of named pull clients.",
		}),
		returned: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_data_returned_total", Help: "Leased messages given back unseen, by cause (unwritten, late, surplus). Worry when it is a large part of all deliveries.",
		}, []string{"cause"}),
		remote: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_data_remote_pulls_total", Help: "Pulls passed on to other nodes, by result (messages, empty, failed). Worry when they fail: messages of that node's lanes wait.",
		}, []string{"result"}),
		goAways: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_data_go_aways_total", Help: "Streams asked to move to another node, by service.",
		}, []string{"service"}),
		windowFull: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_data_publish_window_full_total", Help: "Times a publish stream had to wait because too much of it was unanswered. Worry when it grows while brokers are healthy.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.sessions, m.returned, m.remote, m.goAways, m.windowFull)
	}
	return m
}
