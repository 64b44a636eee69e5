package consume

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the engine counts; labels are actions, reasons and clusters, never names that clients choose.
type metrics struct {
	lanes, groups, sessions, leases, bytes prometheus.Gauge

	delivered, redelivered, expired, revoked, overruns prometheus.Counter

	settled     *prometheus.CounterVec // action, result
	dead        prometheus.Counter
	parked      prometheus.Counter
	copyErrors  *prometheus.CounterVec // kind
	commits     *prometheus.CounterVec // result
	mapsWaiting prometheus.Counter
	fetchErrors *prometheus.CounterVec // class
	lost        prometheus.Counter
	resets      prometheus.Counter
	unreadable  prometheus.Counter
	takeovers   *prometheus.CounterVec // how
	joins       *prometheus.CounterVec // result
	events      prometheus.Counter
	panics      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, cfg Config) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_consume_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_consume_" + name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_consume_" + name, Help: help}, labels)
	}
	limits := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_consume_limit", Help: "The node's limits, for comparison with the gauges."}, []string{"what"})
	for what, v := range map[string]float64{
		"lanes": float64(cfg.MaxLanes), "groups": float64(cfg.MaxGroups), "leases": float64(cfg.MaxLeases), "fetch_bytes": float64(cfg.FetchBytes),
	} {
		limits.WithLabelValues(what).Set(v)
	}
	m := &metrics{
		lanes:       gauge("lanes", "Partitions that this node owns. At the limit it joins no further group."),
		groups:      gauge("groups", "Groups with clients or lanes here."),
		sessions:    gauge("sessions", "Attached clients."),
		leases:      gauge("leases", "Messages out at clients. At the limit nothing more is leased."),
		bytes:       gauge("fetched_bytes", "Messages in memory."),
		delivered:   counter("deliveries_total", "Messages leased."),
		redelivered: counter("redeliveries_total", "Messages leased with an attempt above 1. Worry when it nears the deliveries."),
		expired:     counter("leases_expired_total", "Leases that ran out. Worry when it grows steadily: handlers hang or the lease is too short."),
		revoked:     counter("leases_revoked_total", "Leases called off: a run was broken off, or the partition moved."),
		overruns:    counter("attempts_overrun_total", "Deliveries beyond the attempts that the subscription allows, after a change of owner or of settings."),
		settled:     vec("settled_total", "Answers to leases by action and result.", "action", "result"),
		dead:        counter("dead_letters_total", "Messages moved to dead-letter topics."),
		parked:      counter("parked_total", "Messages moved to retry topics."),
		copyErrors:  vec("copy_errors_total", "Dead letters and parked copies that were not stored; they are tried again and block the window meanwhile. Worry about every one.", "kind"),
		commits:     vec("commits_total", "Committed partitions by result. fenced: another member owns it.", "result"),
		mapsWaiting: counter("maps_postponed_total", "Commits put off because ack maps took their share of bytes this second."),
		fetchErrors: vec("fetch_errors_total", "Failed fetches by class.", "class"),
		lost:        counter("lost_offsets_total", "Offsets that retention took before the group read them. Worry about every one."),
		resets:      counter("resets_total", "Lanes that could not go on where they stood: out of range, or the topic was made anew."),
		unreadable:  counter("unreadable_batches_total", "Batches that could not be read and went to the dead letters by their offsets only."),
		takeovers:   vec("takeovers_total", "Partitions taken over, by whether the owner before had handed them over (clean) or leases of it may still be out (unclean).", "how"),
		joins:       vec("joins_total", "Attempts to join brokers' groups by result.", "result"),
		events:      counter("events_dropped_total", "Events that a client did not take in time."),
		panics:      counter("lane_panics_total", "Lanes that ended by a broken invariant. Worry about every one: it is a defect of Sluice."),
	}
	if reg != nil {
		reg.MustRegister(limits, m.lanes, m.groups, m.sessions, m.leases, m.bytes, m.delivered, m.redelivered, m.expired, m.revoked, m.overruns,
			m.settled, m.dead, m.parked, m.copyErrors, m.commits, m.mapsWaiting, m.fetchErrors, m.lost, m.resets, m.unreadable,
			m.takeovers, m.joins, m.events, m.panics)
	}
	return m
}
