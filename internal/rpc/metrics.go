package rpc

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connections    *prometheus.GaugeVec
	refused        *prometheus.CounterVec
	streams        prometheus.Gauge
	revoked        prometheus.Counter
	unauthorized   *prometheus.CounterVec
	calls          *prometheus.CounterVec
	internalErrors prometheus.Counter
	panics         prometheus.Counter
	tlsExpiry      prometheus.Gauge
	tlsReloads     *prometheus.CounterVec
}

// newMetrics registers with reg; a nil reg counts without showing.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_rpc_connections", Help: "Open client connections; near the limit, clients are refused.",
		}, []string{"listener"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_rpc_connections_refused_total", Help: "Connections refused at a limit (node or address). Worry when it grows: clients cannot connect.",
		}, []string{"listener", "limit"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_rpc_streams", Help: "Open gRPC streams.",
		}),
		revoked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_rpc_streams_revoked_total", Help: "Streams ended because their credential is no longer valid.",
		}),
		unauthorized: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_rpc_unauthorized_total", Help: "Calls refused for want of a credential or a right. Worry when it jumps: a token ran out, or somebody is guessing.",
		}, []string{"reason"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_rpc_calls_total", Help: "Finished calls and streams by code (gRPC's name or HTTP's status class).",
		}, []string{"listener", "code"}),
		internalErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_rpc_internal_errors_total", Help: "Errors that no reason fits; each is in the log with its id. Worry at the first.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_rpc_panics_total", Help: "Panics caught in handlers. Worry at the first: it is a defect.",
		}),
		tlsExpiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_rpc_tls_expiry_timestamp_seconds", Help: "When the served certificate ends, in seconds since 1970; 0 without TLS. Worry 21 days ahead.",
		}),
		tlsReloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_rpc_tls_reloads_total", Help: "Certificate reloads by result. Worry about failures: the old certificate is still served.",
		}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.refused, m.streams, m.revoked, m.unauthorized, m.calls, m.internalErrors, m.panics, m.tlsExpiry, m.tlsReloads)
	}
	return m
}
