package cluster

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	open     prometheus.Gauge
	reopened prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_cluster_drivers_open",
			Help: "Clusters that this node has a driver open for.",
		}),
		reopened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_cluster_reopened_total",
			Help: "Drivers that were opened anew because a cluster's addresses or credentials changed. Worry when nobody changed any.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.open, m.reopened)
	}
	return m
}
