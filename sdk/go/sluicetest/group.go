package sluicetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// group is a consumer group. Server.mu guards it.
type group struct {
	name     string
	topics   []string
	order    sluicev1.Order
	entries  []*entry          // in the order they were stored
	done     int               // so many of the first entries are done
	receipts map[string]*entry // of the latest leases
	settled  []Settlement
	inFlight int
	most     int
}

// entry is a message as a group sees it.
type entry struct {
	record  *record
	state   entryState
	attempt uint32
	receipt []byte
	until   time.Time // end of the lease, or when it can be delivered again
	lease   time.Duration
	run     uint64
	last    sluicev1.Action
	g       *group
}

type entryState int

const (
	pending entryState = iota
	leased
	done
)

// Settlement is what a client said of a delivery.
type Settlement struct {
	ID     string
	Action string // "accept", "release", "reject", "renew" or "return"
	Delay  time.Duration
	Cause  string
}

// Settled lists what the clients of a group said, in the order it came; refused settlements are not in it.
func (s *Server) Settled(groupName string) []Settlement {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[groupName]; g != nil {
		return slices.Clone(g.settled)
	}
	return nil
}

// InFlight is how many messages of a group are leased now, and the most there ever were.
func (s *Server) InFlight(groupName string) (now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[groupName]; g != nil {
		return g.inFlight, g.most
	}
	return 0, 0
}

// group finds or makes a group. The mutex is held.
func (s *Server) group(sub *sluicev1.Subscription) (*group, *sluicev1.Error) {
	g := s.groups[sub.GetGroup()]
	if g == nil {
		g = &group{name: sub.GetGroup(), order: sub.GetOrder(), receipts: map[string]*entry{}}
		s.groups[g.name] = g
	}
	if sub.GetOrder() != 0 && g.order != 0 && sub.GetOrder() != g.order {
		return nil, &sluicev1.Error{Reason: sluicev1.Reason_REASON_SUBSCRIPTION_CONFLICT, Message: fmt.Sprintf("group %s has the order %v; leave it out to inherit it", g.name, g.order)}
	}
	for _, t := range sub.GetTopics() {
		if !slices.Contains(g.topics, t) {
			g.topics = append(g.topics, t)
			for _, r := range s.topics[t] {
				g.add(r)
			}
		}
	}
	return g, nil
}

func (g *group) add(r *record) {
	if slices.Contains(g.topics, r.topic) {
		g.entries = append(g.entries, &entry{record: r, g: g})
	}
}

func (e *entry) expire(now time.Time) {
	e.state, e.until = pending, now
	e.g.inFlight--
}

// unit is what the entry is ordered by; "" for none.
func (e *entry) unit() string {
	switch e.g.order {
	case sluicev1.Order_ORDER_KEY:
		if e.record.msg.Key == nil {
			return ""
		}
		return fmt.Sprintf("%s/%d/%q", e.record.topic, e.record.partition, e.record.msg.Key)
	case sluicev1.Order_ORDER_PARTITION:
		return fmt.Sprintf("%s/%d", e.record.topic, e.record.partition)
	default:
		return ""
	}
}

// next leases up to max messages of the node's partitions to a session. The mutex is held.
func (s *Server) next(x *session, max int) []*sluicev1.Delivery {
	live := s.live()
	mine := slices.Index(live, x.n)
	if mine < 0 || max == 0 {
		return nil
	}
	var out []*sluicev1.Delivery
	open := map[string]*entry{} // the newest unsettled entry before, by unit
	fresh := map[*entry]bool{}  // leased in this very call: only these may share a run
	for x.g.done < len(x.g.entries) && x.g.entries[x.g.done].state == done {
		x.g.done++
	}
	for _, e := range x.g.entries[x.g.done:] {
		if e.state == done {
			continue
		}
		unit := e.unit()
		before := open[unit]
		if unit != "" {
			open[unit] = e
		}
		if e.state == leased || e.until.After(s.now) || e.record.partition%len(live) != mine || len(out) == max {
			continue
		}
		run := uint64(0)
		if unit != "" {
			if before != nil && !fresh[before] {
				continue
			}
			if before != nil {
				run = before.run
			} else {
				s.runs++
				run = s.runs
			}
		}
		out = append(out, s.lease(x, e, run))
		fresh[e] = true
	}
	return out
}

// lease leases an entry. The mutex is held.
func (s *Server) lease(x *session, e *entry, run uint64) *sluicev1.Delivery {
	e.state, e.run, e.lease = leased, run, x.lease
	delete(e.g.receipts, string(e.receipt))
	e.attempt++
	e.until = s.now.Add(x.lease)
	e.g.inFlight++
	e.g.most = max(e.g.most, e.g.inFlight)
	r := e.record
	e.receipt = fmt.Appendf(nil, "%s|%s|%d|%d|%d", e.g.name, r.topic, r.partition, r.offset, e.attempt)
	e.g.receipts[string(e.receipt)] = e
	return &sluicev1.Delivery{
		Receipt: e.receipt,
		Id:      r.msg.GetId(), Key: r.msg.Key, Body: r.msg.Body, Headers: r.msg.GetHeaders(), Tag: r.msg.GetTag(),
		Topic: r.topic, Cluster: "fake", Partition: fmt.Sprint(r.partition), Offset: r.offset, Attempt: e.attempt,
		PublishedAtMs: s.now.UnixMilli(), DeadlineMs: e.until.UnixMilli(), Run: run,
	}
}

// settle applies an ack. The mutex is held.
func (s *Server) settle(groupName string, a *sluicev1.Ack) *sluicev1.Error {
	var e *entry
	if g := s.groups[groupName]; g != nil {
		e = g.receipts[string(a.GetReceipt())]
	}
	switch {
	case e == nil:
		return &sluicev1.Error{Reason: sluicev1.Reason_REASON_REASSIGNED, Message: "the message was leased again"}
	case e.state == done && e.last == a.GetAction():
		return nil
	case e.state == done:
		return &sluicev1.Error{Reason: sluicev1.Reason_REASON_ALREADY_SETTLED, Message: "the message was settled before"}
	case e.state == pending && a.GetAction() != sluicev1.Action_ACTION_ACCEPT:
		return &sluicev1.Error{Reason: sluicev1.Reason_REASON_LEASE_EXPIRED, Message: "the lease ran out"}
	}
	if e.state == leased && a.GetAction() != sluicev1.Action_ACTION_RENEW {
		e.g.inFlight--
	}
	delay := time.Duration(a.GetDelayMs()) * time.Millisecond
	switch a.GetAction() {
	case sluicev1.Action_ACTION_ACCEPT, sluicev1.Action_ACTION_REJECT:
		e.state = done
	case sluicev1.Action_ACTION_RELEASE:
		e.state, e.until = pending, s.now.Add(delay)
	case sluicev1.Action_ACTION_RETURN:
		e.state, e.until = pending, s.now
	case sluicev1.Action_ACTION_RENEW:
		if delay == 0 {
			delay = e.lease
		}
		e.until = s.now.Add(delay)
	default:
		return &sluicev1.Error{Reason: sluicev1.Reason_REASON_INVALID_ARGUMENT, Message: "unknown action"}
	}
	e.last = a.GetAction()
	e.g.settled = append(e.g.settled, Settlement{ID: e.record.msg.GetId(), Action: actions[a.GetAction()], Delay: delay, Cause: a.GetCause()})
	return nil
}

var actions = map[sluicev1.Action]string{
	sluicev1.Action_ACTION_ACCEPT: "accept", sluicev1.Action_ACTION_RELEASE: "release", sluicev1.Action_ACTION_REJECT: "reject",
	sluicev1.Action_ACTION_RENEW: "renew", sluicev1.Action_ACTION_RETURN: "return",
}
