package sluice

import (
	"slices"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// frame takes one frame of a node.
func (r *Receiver) frame(s *consumeStream, f *sluicev1.ConsumeResponse) {
	switch f := f.GetFrame().(type) {
	case *sluicev1.ConsumeResponse_Opened:
		r.streamOpened(s, f.Opened)
	case *sluicev1.ConsumeResponse_Deliveries:
		r.take(s, f.Deliveries.GetMessages())
	case *sluicev1.ConsumeResponse_Acks:
		r.answers(s, f.Acks)
	case *sluicev1.ConsumeResponse_Nodes:
		r.mu.Lock()
		r.learn(f.Nodes)
		r.mu.Unlock()
	case *sluicev1.ConsumeResponse_GoAway:
		r.goAway(s)
	case *sluicev1.ConsumeResponse_Revoked:
		r.revoked(f.Revoked.GetReceipts())
	}
}

func (r *Receiver) streamOpened(s *consumeStream, o *sluicev1.ConsumeOpened) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.open = true
	if ms := o.GetSubscription().GetLeaseMs(); ms > 0 {
		s.lease = time.Duration(ms) * time.Millisecond
	}
	s.share = r.credits.open(time.Now())
	if t := r.targets[s.addr]; t != nil {
		t.failures, t.err = 0, nil
	}
	r.opened = true
	r.learn(o.GetNodes())
	r.changed()
	r.grant()
	r.kick()
}

// learn takes the nodes that serve the group. The mutex is held.
func (r *Receiver) learn(g *sluicev1.GroupNodes) {
	var addrs []string
	for _, n := range g.GetNodes() {
		if n.GetGrpc() != "" {
			addrs = append(addrs, n.GetGrpc())
		}
	}
	if len(addrs) > 0 {
		r.group = addrs
		r.kick()
	}
}

// take queues deliveries for the application.
func (r *Receiver) take(s *consumeStream, msgs []*sluicev1.Delivery) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.credits.delivered(now, s.share, len(msgs))
	for _, m := range msgs {
		l := r.leaseOf(s, m, now)
		if old := r.leases[string(l.receipt)]; old != nil {
			// The same lease twice can only be a node's mistake; the first one counts.
			r.credits.settled(s.share, 1)
			continue
		}
		r.leases[string(l.receipt)] = l
		if r.closing || (l.d.Run != 0 && slices.Contains(s.broken, l.d.Run)) {
			r.giveBack(l)
			continue
		}
		r.dispatch.push(l)
	}
	r.changed()
}

func (r *Receiver) leaseOf(s *consumeStream, m *sluicev1.Delivery, now time.Time) *lease {
	d := &Delivery{
		ID: m.GetId(), Key: m.Key, Body: m.Body, Tag: m.GetTag(), Topic: m.GetTopic(), Cluster: m.GetCluster(),
		Partition: m.GetPartition(), Offset: m.GetOffset(), Attempt: int(m.GetAttempt()), Run: m.GetRun(),
		PublishedAt: time.UnixMilli(m.GetPublishedAtMs()).UTC(), Deadline: time.UnixMilli(m.GetDeadlineMs()).UTC(),
	}
	if n := len(m.GetHeaders()); n > 0 {
		d.Headers = make([]Header, n)
		for i, h := range m.GetHeaders() {
			d.Headers[i] = Header{Name: h.GetName(), Value: h.GetValue()}
		}
	}
	d.lease = &lease{
		r: r, s: s, d: d, receipt: m.GetReceipt(),
		renewAt: now.Add(s.lease / 2), end: now.Add(s.lease), renewUntil: now.Add(r.sub.MaxLease),
	}
	return d.lease
}

// answers resolves a batch of acks.
func (r *Receiver) answers(s *consumeStream, a *sluicev1.ConsumeAckResults) {
	r.mu.Lock()
	jobs := s.sent[a.GetRequest()]
	delete(s.sent, a.GetRequest())
	if len(s.sent) == 0 && len(s.acks) > 0 {
		s.signal()
	}
	r.mu.Unlock()
	for i, j := range jobs {
		err := failure(ReasonInternal, "node %s did not answer the settlement", s.addr)
		err.MaybeSent = true
		if i < len(a.GetResults()) {
			err = fromProto(a.GetResults()[i].GetError())
		}
		if err != nil && elsewhere(err) {
			r.mu.Lock()
			r.orphan(j)
			r.mu.Unlock()
			continue
		}
		r.resolve(j, err)
	}
}

// elsewhere: another node, or the same a little later, may well record the settlement.
func elsewhere(err *Error) bool {
	switch err.Reason {
	case ReasonUnavailable, ReasonGoAway, ReasonSlowDown, ReasonWrongRole, ReasonDeadlineExceeded, ReasonCancelled:
		return true
	default:
		return false
	}
}

func (r *Receiver) goAway(s *consumeStream) {
	r.mu.Lock()
	r.leave(s)
	r.credits.close(s.share) // the node delivers nothing more, so what it was granted is free
	r.grant()
	r.c.nodes.avoid(s.addr)
	if t := r.targets[s.addr]; t != nil && t.stream == s {
		t.retryAt = time.Now().Add(avoidFor)
	}
	r.mu.Unlock()
	r.reconnected(s.addr, nil)
}

// leave stops asking a stream for messages; the manager ends it once everything from it is settled. The mutex is held.
func (r *Receiver) leave(s *consumeStream) {
	if s.leaving {
		return
	}
	s.leaving = true
	s.share.granted -= s.credit // never told
	s.credit = 0
	s.share.retired = true
	r.kick()
}

// revoked drops what the application has not seen of leases that no longer count.
func (r *Receiver) revoked(receipts [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := map[*lease]bool{}
	for _, receipt := range receipts {
		if l := r.leases[string(receipt)]; l != nil {
			l.lost = true
			gone[l] = true
		}
	}
	for _, l := range r.dispatch.drop(func(l *lease) bool { return gone[l] }) {
		r.end(l)
	}
}
