package consume

import (
	"bytes"
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/receipt"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// maxSettle is how many answers go to a lane in one step: more would keep leases waiting.
const maxSettle = 1000

// anyApp stands for the administrator, who may settle for every app, on the way to another node too. No app can be called so.
const anyApp = "\x00any"

// verifiers keeps verifiers of the ring in force, since making one costs as much as ten receipts.
type verifiers struct {
	mu   sync.Mutex // guards all
	of   *snapshot.Snapshot
	free []*receipt.Verifier
}

func (v *verifiers) get(s *snapshot.Snapshot) *receipt.Verifier {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of != s {
		v.of, v.free = s, nil
	}
	if n := len(v.free); n > 0 {
		out := v.free[n-1]
		v.free = v.free[:n-1]
		return out
	}
	ring := make([]receipt.Key, len(s.ReceiptKeys))
	for i, k := range s.ReceiptKeys {
		ring[i] = receipt.Key{ID: k.ID, Key: k.Key}
	}
	return receipt.NewVerifier(ring)
}

func (v *verifiers) put(s *snapshot.Snapshot, used *receipt.Verifier) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of == s && len(v.free) < 64 {
		v.free = append(v.free, used)
	}
}

// toLane are the answers of a request for one lane, toNode those for another node.
type toLane struct {
	p       *partition
	answers []lane.Answer
	index   []int
}

type toNode struct {
	acks  []Ack
	index []int
}

// Settle implements Consumer.
func (e *Engine) Settle(ctx context.Context, who auth.Who, group string, acks []Ack) []*fault.Error {
	app := who.App
	if who.Admin {
		app = anyApp
	}
	out := make([]*fault.Error, len(acks))
	lanes, nodes := e.sort(app, group, acks, out)
	var away sync.WaitGroup
	for name, n := range nodes {
		away.Go(func() {
			for i, f := range e.remote.Settle(ctx, name, app, group, n.acks) {
				out[n.index[i]] = f
			}
		})
	}
	e.settleLanes(lanes, acks, out)
	away.Wait()
	e.count(acks, out)
	return out
}

// settleLocal settles what belongs to this node and ignores the rest.
func (e *Engine) settleLocal(app, group string, acks []Ack) {
	out := make([]*fault.Error, len(acks))
	lanes, _ := e.sort(app, group, acks, out)
	e.settleLanes(lanes, acks, out)
	e.count(acks, out)
}

// sort checks the receipts and says who has to answer: a lane here, another node, or, in out, nobody.
func (e *Engine) sort(app, group string, acks []Ack, out []*fault.Error) (lanes []*toLane, nodes map[string]*toNode) {
	s := e.snap.Current()
	v := e.ring.get(s)
	defer e.ring.put(s, v)
	var last []byte // head of the receipt before: a batch mostly has one
	var scope receipt.Scope
	var to *toLane
	for i := range acks {
		head, l, err := v.Verify(acks[i].Receipt)
		if err != nil {
			out[i] = fault.Wrap(err, fault.ReceiptInvalid, "the receipt is not one of this installation, or was changed")
			continue
		}
		if last == nil || !bytes.Equal(head, last) {
			if scope, err = receipt.ParseHead(head); err != nil {
				out[i] = fault.Wrap(err, fault.ReceiptInvalid, "the receipt cannot be read")
				last = nil
				continue
			}
			last = head
			lanes, to = e.target(lanes, &scope)
		}
		switch {
		case scope.Group != group || scope.App != app && app != anyApp:
			out[i] = fault.New(fault.ReceiptInvalid, "the receipt belongs to another group or app")
		case scope.Node != e.node:
			if out[i] = e.reachable(s, scope.Node, l.DeadlineMs); out[i] == nil {
				nodes = forward(nodes, scope.Node, acks[i], i)
			}
		case to == nil:
			out[i] = reassigned(&scope, l.Offset)
		default:
			to.answers = append(to.answers, answer(&acks[i], l))
			to.index = append(to.index, i)
		}
	}
	return lanes, nodes
}

// target finds the lane of a scope, in this epoch; nil: it is not here any more.
func (e *Engine) target(lanes []*toLane, s *receipt.Scope) ([]*toLane, *toLane) {
	if s.Node != e.node {
		return lanes, nil
	}
	p := e.lane(laneKey{group: s.Group, cluster: s.Cluster, id: mq.PartitionID{Topic: mq.Topic(s.Topic), Broker: s.Broker, Index: s.Partition}})
	if p == nil || p.epoch != s.Epoch {
		return lanes, nil
	}
	for _, to := range lanes {
		if to.p == p {
			return lanes, to
		}
	}
	to := &toLane{p: p}
	return append(lanes, to), to
}

func answer(a *Ack, l receipt.Lease) lane.Answer {
	out := lane.Answer{Offset: l.Offset, Serial: l.Serial, Delay: max(0, min(a.Delay, MaxLease))}
	switch a.Action {
	case Accept:
		out.Action = lane.Accept
	case Release:
		out.Action = lane.Release
	case Reject:
		out.Action = lane.Reject
	case Renew:
		out.Action = lane.Renew
	case Return:
		out.Action = lane.Return
	}
	if a.Cause != "" {
		out.Cause = strings.Clone(cutText(a.Cause, maxCauseBytes))
	}
	return out
}

// reachable says why an owner elsewhere need not be asked; nil: ask it.
func (e *Engine) reachable(s *snapshot.Snapshot, node string, deadlineMs int64) *fault.Error {
	n := s.Nodes[node]
	switch {
	case n == nil:
		return fault.New(fault.Reassigned, "node %s, which leased this message, is gone; the message is delivered again by another one", node)
	case !n.Alive && deadlineMs < e.now().UnixMilli():
		return fault.New(fault.Reassigned, "node %s, which leased this message, is away and the lease ran out; the message is delivered again", node)
	case !n.Alive:
		f := fault.New(fault.Unavailable, "node %s, which leased this message, does not answer; try again, the answer was not recorded", node)
		f.RetryAfter = time.Second
		return f
	default:
		return nil
	}
}

func forward(nodes map[string]*toNode, node string, a Ack, i int) map[string]*toNode {
	if nodes == nil {
		nodes = make(map[string]*toNode)
	}
	n := nodes[node]
	if n == nil {
		n = &toNode{}
		nodes[node] = n
	}
	n.acks, n.index = append(n.acks, a), append(n.index, i)
	return nodes
}

// settleLanes lets the lanes judge.
func (e *Engine) settleLanes(lanes []*toLane, acks []Ack, out []*fault.Error) {
	for _, to := range lanes {
		p := to.p
		verdicts := make([]lane.Verdict, len(to.answers))
		for from := 0; from < len(to.answers); from += maxSettle {
			end := min(from+maxSettle, len(to.answers))
			ok := true
			ok = p.call(func() {
				now := p.e.clock()
				p.l.Tick(now) // what ran out before this answer came ran out
				if ok = !p.sealed; !ok {
					return
				}
				for i := from; i < end; i++ {
					verdicts[i] = p.l.Settle(now, to.answers[i])
				}
			}) && ok
			if !ok {
				for i := from; i < end; i++ {
					verdicts[i] = lane.Reassigned
				}
			}
		}
		for i, v := range verdicts {
			if acks[to.index[i]].Action == Return && v == lane.Reassigned {
				v = lane.OK // it is back already
			}
			if v != lane.OK {
				out[to.index[i]] = p.refusal(v, to.answers[i].Offset)
			}
		}
	}
}

func (p *partition) refusal(v lane.Verdict, offset int64) *fault.Error {
	switch v {
	case lane.AlreadySettled:
		return fault.New(fault.AlreadySettled, "offset %d of partition %s of %s was settled otherwise by this receipt", offset, p.name, p.id.Topic)
	case lane.Expired:
		return fault.New(fault.LeaseExpired, "the lease of offset %d of partition %s of %s ran out", offset, p.name, p.id.Topic)
	case lane.OK, lane.Reassigned:
	}
	return fault.New(fault.Reassigned, "the lease of offset %d of partition %s of %s was called off; the message is delivered again", offset, p.name, p.id.Topic)
}

func reassigned(s *receipt.Scope, offset int64) *fault.Error {
	return fault.New(fault.Reassigned, "partition %d of %s has moved since offset %d was leased; the message is delivered again by its new owner", s.Partition, s.Topic, offset)
}

var actionNames = map[Action]string{Accept: "accept", Release: "release", Reject: "reject", Renew: "renew", Return: "return"}

// count counts answers by action and result, runs of equal ones at once.
func (e *Engine) count(acks []Ack, out []*fault.Error) {
	for i := 0; i < len(acks); {
		n := 1
		for i+n < len(acks) && acks[i+n].Action == acks[i].Action && sameReason(out[i+n], out[i]) {
			n++
		}
		result := "ok"
		if out[i] != nil {
			result = string(out[i].Reason)
		}
		e.m.settled.WithLabelValues(cmp.Or(actionNames[acks[i].Action], "unknown"), result).Add(float64(n))
		i += n
	}
}

func sameReason(a, b *fault.Error) bool {
	return a == b || a != nil && b != nil && a.Reason == b.Reason
}
