package publish

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the engine counts. Topic labels are bounded: topics that
// come after the first MaxTopicLabels are counted as "other".
type metrics struct {
	messages *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	reasons  *prometheus.CounterVec

	inFlightBytes   prometheus.Gauge
	slowedDown      prometheus.Counter
	retries         prometheus.Counter
	held            prometheus.Counter
	orderGaps       prometheus.Counter
	refreshFailures prometheus.Counter
	moved           *prometheus.CounterVec

	maxTopics int
	mu        sync.Mutex // guards topics
	topics    map[string]*topicMetrics
}

// topicMetrics are one topic's, looked up once.
type topicMetrics struct {
	status  [Refused + 1]prometheus.Counter
	bytes   prometheus.Counter
	seconds prometheus.Observer
}

func newMetrics(reg prometheus.Registerer, maxTopics int) *metrics {
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_publish_messages_total", Help: "Messages by topic and by what became of them. Worry when maybe_sent or not_sent grows: callers send again, which may repeat.",
		}, []string{"topic", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_publish_bytes_total", Help: "Bytes of keys, bodies, headers and tags that callers published, by topic.",
		}, []string{"topic"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_publish_request_seconds", Help: "Time from a request's receipt by the engine to its results, by topic.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"topic"}),
		reasons: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_publish_failures_total", Help: "Messages with an error, by reason.",
		}, []string{"reason"}),
		inFlightBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_publish_in_flight_bytes", Help: "Bytes of messages that have no result yet. Worry when it stays near the limit: callers are being slowed down.",
		}),
		slowedDown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_publish_slow_downs_total", Help: "Requests refused because a limit of node, app or topic was reached.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_publish_retries_total", Help: "Slices that were sent again after a failure that certainly stored nothing. Worry when it grows for minutes.",
		}),
		held: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_publish_held_slices_total", Help: "Slices that waited for an earlier message of one of their keys. Much of it means few, hot keys.",
		}),
		orderGaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_publish_order_gaps_total", Help: "Keyed messages that failed although a later one of their key and request was stored. Worry at any: a resend comes out of order.",
		}),
		refreshFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_publish_refresh_failures_total", Help: "Refreshes of a topic's partitions that failed; the last known ones are used meanwhile.",
		}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_publish_moved_messages_total", Help: "Un-keyed messages that went to another partition than their own: placed, because it had no leader; failed, because it did not take them.",
		}, []string{"why"}),
		maxTopics: maxTopics, topics: map[string]*topicMetrics{},
	}
	if reg != nil {
		reg.MustRegister(m.messages, m.bytes, m.seconds, m.reasons, m.inFlightBytes, m.slowedDown, m.retries, m.held, m.orderGaps, m.refreshFailures, m.moved)
	}
	return m
}

// topic finds or makes a topic's metrics.
func (m *metrics) topic(name string) *topicMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.topics[name]; t != nil {
		return t
	}
	if len(m.topics) >= m.maxTopics {
		name = "other"
		if t := m.topics[name]; t != nil {
			return t
		}
	}
	t := &topicMetrics{bytes: m.bytes.WithLabelValues(name), seconds: m.seconds.WithLabelValues(name)}
	for s := Stored; s <= Refused; s++ {
		t.status[s] = m.messages.WithLabelValues(name, s.String())
	}
	m.topics[name] = t
	return t
}

// count counts a batch that is done.
func (m *metrics) count(b *batch) {
	var by [Refused + 1]int
	for i := range b.results {
		r := &b.results[i]
		by[r.Status]++
		if r.Err != nil {
			m.reasons.WithLabelValues(string(r.Err.Reason)).Inc()
		}
	}
	var t *topicMetrics
	if b.topic != nil {
		t = b.topic.m
	} else {
		t = m.topic("") // no such topic: its name is the caller's and unbounded
	}
	for s := Stored; s <= Refused; s++ {
		if by[s] > 0 {
			t.status[s].Add(float64(by[s]))
		}
	}
	t.bytes.Add(float64(b.bytes))
	t.seconds.Observe(b.e.now().Sub(b.start).Seconds())
}
