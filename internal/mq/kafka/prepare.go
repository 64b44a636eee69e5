package kafka

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// prep is what has to be known before the first batch: the capabilities and, where the cluster has
// idempotence, a producer id.
type prep struct {
	mu      sync.Mutex // guards the rest
	done    bool
	pid     int64 // -1: not idempotent
	running bool
	waiting []*queue
	// spent: a partition used up the epochs of the producer id.
	spent atomic.Bool
}

// ready tells whether batches can be formed, and gives the queue its identity. Else the queue is dispatched again when
// the preparation is through.
func (p *producer) ready(q *queue) bool {
	ok, started := p.readyOrWait(q)
	if !ok && !started {
		p.abort(q, errClosed())
	}
	return ok
}

func (p *producer) readyOrWait(q *queue) (ok, started bool) {
	p.prep.mu.Lock()
	defer p.prep.mu.Unlock()
	if p.prep.spent.Swap(false) {
		p.prep.done = false
	}
	if p.prep.done {
		p.identify(q)
		return true, true
	}
	if !p.prep.running {
		if !p.spawn(p.prepare) {
			return false, false
		}
		p.prep.running = true
	}
	p.prep.waiting = append(p.prep.waiting, q)
	return false, true
}

// identify needs prep.mu. A queue keeps its producer id until its epochs are used up.
func (p *producer) identify(q *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.prep.pid >= 0 && q.ident.pid != p.prep.pid && q.flight == nil {
		q.ident = ident{pid: p.prep.pid}
	}
}

func (p *producer) prepare() {
	for {
		pid, err := p.loadIdentity()
		p.prep.mu.Lock()
		queues := p.prep.waiting
		p.prep.waiting = nil
		if err == nil {
			p.prep.done, p.prep.pid, p.prep.running = true, pid, false
			p.prep.mu.Unlock()
			for _, q := range queues {
				p.dispatch(q)
			}
			return
		}
		p.prep.mu.Unlock()
		var still []*queue
		for _, q := range queues {
			if p.prepFailed(q, err) {
				still = append(still, q)
			}
		}
		p.prep.mu.Lock()
		p.prep.waiting = append(p.prep.waiting, still...)
		if len(p.prep.waiting) == 0 {
			p.prep.running = false
			p.prep.mu.Unlock()
			return
		}
		p.prep.mu.Unlock()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-p.d.ctx.Done():
		}
	}
}

// prepFailed fails at once what a retry cannot help.
func (p *producer) prepFailed(q *queue, err *mq.Error) bool {
	if err.Class == mq.Auth || err.Class == mq.Invalid || err.Class == mq.Unsupported {
		p.abort(q, err)
		return false
	}
	return p.stillWaiting(q, err)
}

// loadIdentity asks for the capabilities and a producer id; -1 where the cluster has none.
func (p *producer) loadIdentity() (int64, *mq.Error) {
	ctx, cancel := p.d.bound(context.Background(), p.d.cfg.LeaderWait)
	defer cancel()
	caps, err := p.d.Caps(ctx)
	if err != nil {
		return -1, transportError(err)
	}
	if !caps.Idempotent {
		return -1, nil
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionTimeoutMillis = math.MaxInt32
	resp, err := req.RequestWith(ctx, p.d.data)
	if err != nil {
		return -1, transportError(err)
	}
	if resp.ErrorCode != 0 {
		e := codeError(resp.ErrorCode, "", nil)
		if resp.ErrorCode == kerr.ClusterAuthorizationFailed.Code {
			e.Msg += " (the user needs the right IDEMPOTENT_WRITE on the cluster)"
		}
		return -1, e
	}
	return resp.ProducerID, nil
}

// bump makes a queue go on with a new epoch, in which sequences start again. The broker then refuses what was
// given up in the old one. It needs q.mu; no flight may be out.
//
// The epoch is the partition's own: brokers keep producers per partition, and take any higher epoch that starts at
// sequence 0 (ProducerAppendInfo.checkSequence). Java's producer bumps locally, too (KIP-360).
func (q *queue) bump() {
	q.p.d.m.epochBumps.Inc()
	if q.ident.pid < 0 {
		return
	}
	if q.ident.epoch < math.MaxInt16 {
		q.ident.epoch++
		q.ident.seq = 0
		return
	}
	// All epochs used: a new producer id for everyone, taken up by each queue as it is dispatched.
	q.ident.pid = -1
	q.p.prep.spent.Store(true)
}
