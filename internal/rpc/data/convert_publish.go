package data

import (
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// decodePublish turns a request into the engine's form: two allocations for the batch and one for all headers together,
// whatever the number of messages. Byte slices are shared with the request, which must not be used again.
func decodePublish(req *sluicev1.PublishRequest) (*publish.Request, int, error) {
	ms := req.GetMessages()
	switch {
	case len(ms) == 0:
		return nil, 0, fault.New(fault.InvalidArgument, "the request has no messages; send at least one")
	case len(ms) > maxMessages:
		return nil, 0, fault.New(fault.InvalidArgument, "the request has %d messages; at most %d are allowed, send several requests", len(ms), maxMessages)
	}
	timeout := time.Duration(req.GetTimeoutMs()) * time.Millisecond
	if timeout > maxTimeout {
		return nil, 0, fault.New(fault.InvalidArgument, "timeout_ms %d is out of range; at most %d is allowed", req.GetTimeoutMs(), maxTimeout.Milliseconds())
	}
	out := &publish.Request{Topic: req.GetTopic(), Producer: req.GetProducer(), Timeout: timeout}
	switch req.GetDurability() {
	case sluicev1.Durability_DURABILITY_UNSPECIFIED, sluicev1.Durability_DURABILITY_REPLICATED:
	case sluicev1.Durability_DURABILITY_ANY:
		out.AnyDurability = true
	default:
		return nil, 0, fault.New(fault.InvalidArgument, "durability %d is unknown; use replicated or any", req.GetDurability())
	}
	headers := 0
	for _, m := range ms {
		headers += len(m.GetHeaders())
	}
	hs := make([]publish.Header, 0, headers)
	out.Messages = make([]publish.Message, len(ms))
	size := 0
	for i, m := range ms {
		if m == nil { // only from a caller in this process
			return nil, 0, fault.New(fault.InvalidArgument, "message %d is missing", i)
		}
		o := &out.Messages[i]
		o.ID, o.Key, o.Body, o.Tag, o.Sequence, o.Partition = m.Id, m.Key, m.Body, m.Tag, m.Sequence, m.Partition
		size += len(m.Key) + len(m.Body) + len(m.Tag) + 64
		if len(m.Headers) == 0 {
			continue
		}
		first := len(hs)
		for _, h := range m.Headers {
			hs = append(hs, publish.Header{Name: h.GetName(), Value: h.GetValue()})
			size += len(h.GetName()) + len(h.GetValue()) + 8
		}
		// The capacity is cut, so that an engine that appends a header cannot write into the next message's.
		o.Headers = hs[first:len(hs):len(hs)]
	}
	return out, size, nil
}

// ids says which messages of a batch came without an id: only those results carry one.
type ids struct {
	all  bool
	some []bool // nil: none, or all
}

func missingIDs(ms []publish.Message) ids {
	n := 0
	for i := range ms {
		if ms[i].ID == "" {
			n++
		}
	}
	switch n {
	case 0:
		return ids{}
	case len(ms):
		return ids{all: true}
	}
	some := make([]bool, len(ms))
	for i := range ms {
		some[i] = ms[i].ID == ""
	}
	return ids{some: some}
}

func (m ids) missing(i int) bool { return m.all || (i < len(m.some) && m.some[i]) }

// publishEncoder builds answers in memory that it uses again: an answer is valid until the next one is built.
type publishEncoder struct {
	response sluicev1.PublishResponse
	results  []sluicev1.PublishResult
	pointers []*sluicev1.PublishResult
	places   []*sluicev1.Place
	faults   *rpc.Faults
}

func (e *publishEncoder) encode(rs []publish.Result, missing ids) *sluicev1.PublishResponse {
	if cap(e.results) < len(rs) {
		e.results = make([]sluicev1.PublishResult, len(rs))
		e.pointers = make([]*sluicev1.PublishResult, len(rs))
		for i := range e.results {
			e.pointers[i] = &e.results[i]
		}
	}
	e.results = e.results[:len(rs)]
	e.places = e.places[:0]
	for i := range rs {
		r, out := &rs[i], &e.results[i]
		out.Status, out.Place, out.Offset, out.Id, out.Error = statuses[r.Status], 0, 0, "", nil
		if r.Err != nil {
			out.Error = e.faults.Proto(r.Err)
		}
		if missing.missing(i) {
			out.Id = r.ID
		}
		if r.Status == publish.Stored || r.Status == publish.StoredNotReplicated {
			out.Place, out.Offset = e.place(r.Cluster, r.Partition), r.Offset
		}
	}
	e.response.Results, e.response.Places = e.pointers[:len(rs)], e.places
	return &e.response
}

// place finds or adds a place, looking at the last one first: slices of a batch come together.
func (e *publishEncoder) place(cluster, partition string) uint32 {
	for i, v := range slices.Backward(e.places) {
		if v.Partition == partition && v.Cluster == cluster {
			return uint32(i) //nolint:gosec // at most maxMessages
		}
	}
	n := len(e.places)
	if n < cap(e.places) && e.places[:n+1][n] != nil {
		e.places = e.places[:n+1]
		e.places[n].Cluster, e.places[n].Partition = cluster, partition
	} else {
		e.places = append(e.places, &sluicev1.Place{Cluster: cluster, Partition: partition})
	}
	return uint32(n) //nolint:gosec // at most maxMessages
}

var statuses = [...]sluicev1.Status{
	0:                           sluicev1.Status_STATUS_UNSPECIFIED,
	publish.Stored:              sluicev1.Status_STATUS_STORED,
	publish.StoredNotReplicated: sluicev1.Status_STATUS_STORED_NOT_REPLICATED,
	publish.NotSent:             sluicev1.Status_STATUS_NOT_SENT,
	publish.MaybeSent:           sluicev1.Status_STATUS_MAYBE_SENT,
	publish.Refused:             sluicev1.Status_STATUS_REFUSED,
}
