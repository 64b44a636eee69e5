package consume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	fetchWait    = 10 * time.Second
	fetchBackMin = 100 * time.Millisecond
	fetchBackMax = 5 * time.Second
	starvedWait  = 50 * time.Millisecond // until memory is asked for again
)

// want asks the fetcher for records, fetched is its answer.
type want struct {
	offset int64
	limits mq.Limits
}

type fetched struct {
	want
	batch mq.Batch
	err   error
}

// intake is what a lane has fetched and could not take yet, and how fetching goes.
type intake struct {
	at      int64 // offset to fetch from
	asked   bool  // the fetcher works
	size    int   // bytes to ask for: doubles while the answers are full
	queue   []lane.Message
	bytes   int64
	pass    int64         // once queue is empty, everything below is known
	retryAt time.Duration // not before
	fails   int
	blocked string
}

// fetchLoop waits in Fetch on behalf of the lane.
func (p *partition) fetchLoop() {
	for {
		var w want
		select {
		case w = <-p.wants:
		case <-p.ctx.Done():
			return
		}
		b, err := p.from.Fetch(p.ctx, p.id, w.offset, w.limits)
		select {
		case p.fetched <- fetched{want: w, batch: b, err: err}:
		case <-p.ctx.Done():
			return
		}
	}
}

// askFetch asks for more where there is room for it.
func (p *partition) askFetch(now time.Duration) {
	in := &p.in
	if in.asked || p.stopped || len(in.queue) > 0 || p.l.Full() || now < in.retryAt {
		return
	}
	n := p.e.budget.grant(p.held, int64(p.l.IdleBytes()))
	if n < p.e.cfg.LaneMinBytes/4 {
		if p.l.Idle() == 0 {
			in.retryAt = now + starvedWait
		}
		return
	}
	in.asked = true
	p.wants <- want{offset: in.at, limits: mq.Limits{
		MaxBytes: min(n, in.size), MaxRecords: max(1, p.window-p.l.Span()), MaxWait: fetchWait,
	}}
}

// took works on a fetcher's answer.
func (p *partition) took(f fetched) {
	in := &p.in
	in.asked = false
	now := p.e.clock()
	switch {
	case f.err != nil:
		p.fetchFailed(now, f)
		return
	case f.batch.Reset != nil:
		p.reset(f)
		return
	}
	in.fails, in.blocked = 0, ""
	p.high = f.batch.HighWatermark
	bytes := 0
	wall := p.e.now()
	for i := range f.batch.Records {
		r := &f.batch.Records[i]
		bytes += r.Bytes()
		m := decode(r, p.retry, wall, now)
		if !p.retry {
			p.take(now, m, "")
			continue
		}
		cause := p.route(&m)
		p.take(now, m, cause)
	}
	if bytes*4 >= f.limits.MaxBytes*3 {
		in.size = min(in.size*2, p.e.cfg.LaneMaxBytes)
	}
	in.at = max(in.at, f.batch.Next)
	in.pass = in.at
	p.admit(now)
}

// route finds the policy of a parked copy by its origin; the cause says why there is none.
func (p *partition) route(m *lane.Message) (cause string) {
	if m.Origin == nil || m.Origin.Topic == "" {
		return "not a parked copy: the headers that name its origin are missing"
	}
	bit := slices.Index(p.spec.topics, m.Origin.Topic)
	if bit < 0 {
		return fmt.Sprintf("the group no longer subscribes to topic %q", m.Origin.Topic)
	}
	m.Policy = uint8(bit)
	return ""
}

// take gives a message to the lane, or keeps it until there is room. A cause sends it to the dead letters.
func (p *partition) take(now time.Duration, m lane.Message, cause string) {
	if len(p.in.queue) == 0 {
		if cause == "" && p.l.Admit(now, m) || cause != "" && p.l.AdmitDead(m, cause) {
			return
		}
	}
	if cause != "" {
		m.Policy = condemned
	}
	p.in.queue = append(p.in.queue, m)
	p.in.bytes += recordBytes(m)
}

// condemned marks a waiting message that goes to the dead letters; its cause is found again.
const condemned = 255

func recordBytes(m lane.Message) int64 {
	if m.Record == nil {
		return 0
	}
	return int64(m.Record.Bytes())
}

// admit gives waiting messages to the lane as its window moves.
func (p *partition) admit(now time.Duration) {
	in := &p.in
	n := 0
	for _, m := range in.queue {
		if m.Policy == condemned {
			m.Policy = 0
			if !p.l.AdmitDead(m, p.route(&m)) {
				break
			}
		} else if !p.l.Admit(now, m) {
			break
		}
		in.bytes -= recordBytes(m)
		n++
	}
	if n > 0 {
		in.queue = slices.Delete(in.queue, 0, n)
	}
	if len(in.queue) == 0 && in.pass > 0 {
		p.l.Pass(in.pass)
		in.pass = 0
	}
}

// fetchFailed leaves out what can never be read, and tries the rest again.
func (p *partition) fetchFailed(now time.Duration, f fetched) {
	if p.ctx.Err() != nil || p.stopped {
		return
	}
	p.e.m.fetchErrors.WithLabelValues(mq.ClassOf(f.err).Error()).Inc()
	var broken interface{ Range() (from, next int64) }
	if errors.As(f.err, &broken) {
		if from, next := broken.Range(); next > f.offset {
			p.skip(max(from, f.offset), next, f.err)
			return
		}
	}
	in := &p.in
	in.fails++
	in.retryAt = now + min(fetchBackMin<<min(in.fails-1, 8), fetchBackMax)
	in.blocked = "fetch: " + f.err.Error()
	if errors.Is(f.err, context.Canceled) {
		return
	}
	p.e.log.Warn("fetch failed; it is tried again", p.attrs("offset", f.offset, "attempt", in.fails, "err", f.err)...)
}

// skip puts a dead letter in the place of offsets that cannot be read.
func (p *partition) skip(from, next int64, err error) {
	p.e.m.unreadable.Inc()
	p.e.log.Error("a batch cannot be read; its offsets go to the dead letters", p.attrs("offset", from, "next", next, "err", err)...)
	cause := fmt.Sprintf("offsets %d to %d cannot be read: %v", from, next-1, err)
	p.l.Pass(from)
	if !p.l.AdmitDead(lane.Message{Offset: from}, cause) {
		p.in.retryAt = p.e.clock() + fetchBackMax // no room: it is met again
		return
	}
	p.in.at, p.in.pass = next, next
}

// reset goes on where the driver says, and reports what is missing.
func (p *partition) reset(f fetched) {
	r := f.batch.Reset
	p.e.m.resets.Inc()
	p.e.m.lost.Add(float64(r.Lost))
	in := &p.in
	where := p.attrs("offset", f.offset, "next", f.batch.Next, "lost", r.Lost)
	if r.Recreated {
		p.e.log.Error("topic was made anew; going on at its beginning, what was known of the old one is dropped", where...)
	} else {
		p.e.log.Error("offset out of range; going on at the earliest", where...)
	}
	if r.Recreated || f.batch.Next < in.at {
		p.l.Restart(f.batch.Next)
		in.queue, in.bytes, in.pass = nil, 0, 0
		if r.Recreated {
			p.topicID = "" // maps of the new topic carry its id after the next join
		}
	} else {
		in.pass = f.batch.Next
	}
	in.at, in.fails, in.blocked = f.batch.Next, 0, ""
}
