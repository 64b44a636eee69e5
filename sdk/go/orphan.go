package sluice

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

const (
	// orphanPause is between two rounds of settling at other nodes.
	orphanPause = 100 * time.Millisecond
	// orphanTime is how long at least the settling is tried, also where the lease ends before.
	orphanTime = 5 * time.Second
)

// orphan hands an ack without a stream to settleOrphans. The mutex is held.
func (r *Receiver) orphan(j *job) {
	if j.since.IsZero() {
		j.since = time.Now()
	}
	r.orphans = append(r.orphans, j)
	select {
	case r.orphanKick <- struct{}{}:
	default:
	}
}

// settleOrphans settles by calls to any node what has no stream any more: the same receipt holds everywhere.
func (r *Receiver) settleOrphans() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.orphanKick:
		}
		for r.settleRound() {
			pause.Reset(orphanPause)
			select {
			case <-r.ctx.Done():
				return
			case <-pause.C:
			}
		}
	}
}

// settleRound tries every orphan once; true where some are left.
func (r *Receiver) settleRound() bool {
	r.mu.Lock()
	jobs := r.orphans
	r.orphans = nil
	r.mu.Unlock()
	for batch := range slices.Chunk(jobs, maxAcks) {
		r.settleBatch(batch)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.orphans) > 0
}

func (r *Receiver) settleBatch(jobs []*job) {
	req := &sluicev1.AckRequest{Group: r.sub.Group, Acks: make([]*sluicev1.Ack, len(jobs))}
	for i, j := range jobs {
		req.Acks[i] = j.ack
	}
	results, err := r.ackAnywhere(req)
	now := time.Now()
	for i, j := range jobs {
		e := err
		if e == nil {
			if i < len(results) {
				e = fromProto(results[i].GetError())
			} else {
				e = failure(ReasonInternal, "a node did not answer the settlement")
			}
		}
		if e != nil && elsewhere(e) && now.Before(later(j.l.end, j.since.Add(orphanTime))) {
			r.mu.Lock()
			r.orphan(j)
			r.mu.Unlock()
			continue
		}
		if e != nil && elsewhere(e) {
			copied := *e
			copied.MaybeSent = true
			e = &copied
		}
		r.resolve(j, e)
	}
}

// ackAnywhere asks one node after the other until one answers.
func (r *Receiver) ackAnywhere(req *sluicev1.AckRequest) (_ []*sluicev1.AckResult, last *Error) {
	for _, addr := range r.c.nodes.candidates(roleConsumer, "") {
		cc, err := r.c.nodes.conn(addr)
		if err != nil {
			return nil, fromCall(addr, err)
		}
		ctx, cancel := context.WithTimeout(r.ctx, openTimeout)
		resp, err := sluicev1.NewConsumerServiceClient(cc).Ack(ctx, req)
		cancel()
		if err == nil {
			return resp.GetResults(), nil
		}
		if last = fromCall(addr, err); r.ctx.Err() != nil || hopeless(last) {
			return nil, last
		}
		r.c.nodes.avoid(addr)
	}
	return nil, last
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sortedKeys(m map[uint64][]*job) []uint64 { return slices.Sorted(maps.Keys(m)) }
