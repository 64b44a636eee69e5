package consume

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	copyBatch   = 100 // copies in one write
	copyTimeout = 10 * time.Second
	copyBackMin = 200 * time.Millisecond
	copyBackMax = 10 * time.Second
)

// copies are messages on their way to other topics. A message counts as done only once its copy is stored.
type copies struct {
	dead, park               []lane.Copy
	writingDead, writingPark bool
	blocked                  string
}

// writeCopies starts the writers that have something to do; in the lane's goroutine.
func (p *partition) writeCopies() {
	if p.ctx.Err() != nil {
		return
	}
	c := &p.copies
	if len(c.dead) > 0 && !c.writingDead {
		batch := cutBatch(&c.dead)
		c.writingDead = true
		p.work.Go(func() { p.writeDead(batch) })
	}
	if len(c.park) > 0 && !c.writingPark {
		batch := cutBatch(&c.park)
		c.writingPark = true
		p.work.Go(func() { p.writePark(batch) })
	}
}

func cutBatch(queue *[]lane.Copy) []lane.Copy {
	n := min(len(*queue), copyBatch)
	batch := append([]lane.Copy(nil), (*queue)[:n]...)
	rest := append([]lane.Copy(nil), (*queue)[n:]...)
	*queue = rest
	return batch
}

// writeDead writes dead letters for as long as it takes: nothing else can be done with them.
func (p *partition) writeDead(batch []lane.Copy) {
	topic := mq.DeadLetterTopic(p.g.name)
	small := make(map[int64]bool) // those that were too large with all headers
	for tries := 0; ; tries++ {
		records := make([]mq.Record, len(batch))
		for i := range batch {
			records[i] = p.copyOf(&batch[i], true, small[batch[i].Offset])
		}
		errs := p.store(topic, records)
		if p.ctx.Err() != nil {
			return
		}
		var stored, left []lane.Copy
		var last error
		for i := range batch {
			switch err := errs[i]; {
			case err == nil || errors.Is(err, mq.NotDurable):
				stored = append(stored, batch[i])
			default:
				small[batch[i].Offset] = small[batch[i].Offset] || errors.Is(err, mq.TooLarge)
				left, last = append(left, batch[i]), err
			}
		}
		if !p.deadWritten(stored, topic, last) || len(left) == 0 {
			return
		}
		p.e.m.copyErrors.WithLabelValues("dead_letter").Add(float64(len(left)))
		p.e.log.Error("dead letters were not stored; their messages stay undone until they are", p.attrs("attempt", tries+1, "count", len(left), "err", last)...)
		batch = left
		if !pause(p.ctx, min(copyBackMin<<min(tries, 8), copyBackMax)) {
			return
		}
	}
}

// deadWritten tells the lane; false: it is gone.
func (p *partition) deadWritten(stored []lane.Copy, topic mq.Topic, last error) bool {
	p.e.m.dead.Add(float64(len(stored)))
	return p.call(func() {
		for i := range stored {
			p.l.Stored(stored[i].Offset, stored[i].Serial)
		}
		p.copies.blocked = ""
		if last != nil {
			p.copies.blocked = "dead letters cannot be written to " + string(topic) + ": " + last.Error()
			return
		}
		p.copies.writingDead = false
		p.writeCopies()
	})
}

// writePark writes parked copies once; those that fail wait in memory instead.
func (p *partition) writePark(batch []lane.Copy) {
	wall := p.e.now()
	records := make([]mq.Record, len(batch))
	for i := range batch {
		records[i] = p.copyOf(&batch[i], false, false)
		records[i].Headers = append(records[i].Headers, header(mq.HeaderDue, strconv.FormatInt(wall.Add(batch[i].Delay).UnixMilli(), 10)))
	}
	errs := p.store(mq.RetryTopic(p.g.name), records)
	if p.ctx.Err() != nil {
		return
	}
	var failed error
	p.call(func() {
		now := p.e.clock()
		for i := range batch {
			if err := errs[i]; err != nil && !errors.Is(err, mq.NotDurable) {
				failed = err
				p.e.m.copyErrors.WithLabelValues("parked").Inc()
				p.l.Unstored(now, batch[i].Offset, batch[i].Serial, max(0, batch[i].Delay-p.e.now().Sub(wall)))
				continue
			}
			p.e.m.parked.Inc()
			p.l.Stored(batch[i].Offset, batch[i].Serial)
		}
		p.copies.writingPark = false
		p.writeCopies()
	})
	if failed != nil {
		p.e.log.Warn("messages could not be parked; they wait in memory", p.attrs("err", failed)...)
	}
}

// store appends records to a partition of a topic on this lane's cluster, the one with this lane's index, and gives an error for each.
func (p *partition) store(topic mq.Topic, records []mq.Record) []error {
	errs := make([]error, len(records))
	all := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	ctx, cancel := context.WithTimeout(p.ctx, copyTimeout)
	defer cancel()
	producer := p.m.driver.Producer()
	parts, err := producer.Partitions(ctx, topic)
	if err != nil {
		return all(err)
	}
	if len(parts) == 0 {
		return all(mq.Errorf(mq.NotFound, "topic %s has no partitions", topic))
	}
	to := parts[int(p.id.Index)%len(parts)].ID
	answers := make(chan []mq.Result, 1)
	producer.Produce(ctx, to, records, func(rs []mq.Result) { answers <- rs })
	for i, r := range <-answers {
		errs[i] = r.Err
	}
	return errs
}

// copyOf makes the record of a dead letter or parked copy. What Sluice says of it replaces what an earlier copy
// said. A small one leaves out what can be left out, for a message near the size limit.
func (p *partition) copyOf(c *lane.Copy, dead, small bool) mq.Record {
	var r mq.Record
	if c.Record != nil {
		// The time is left to the broker: retention would count from the original one.
		r = mq.Record{Key: c.Record.Key, Body: c.Record.Body, Tag: c.Record.Tag}
	}
	if !p.m.caps.Headers {
		return r
	}
	o := c.Origin
	if o == nil || o.Topic == "" {
		o = &lane.Origin{Cluster: p.m.cluster, Topic: p.topic, Partition: p.name, Offset: c.Offset}
	}
	id := c.ID
	if id == nil {
		id = placeID(nil, p.m.cluster, string(p.id.Topic), p.name, c.Offset)
	}
	if c.Record != nil {
		r.Headers = append(make([]mq.Header, 0, len(c.Record.Headers)+8), c.Record.Headers...)
	}
	r.Headers = append(r.Headers,
		mq.Header{Name: mq.HeaderID, Value: id},
		header(mq.HeaderOriginTopic, o.Topic),
		header(mq.HeaderOriginPartition, o.Partition),
		header(mq.HeaderOriginOffset, strconv.FormatInt(o.Offset, 10)),
		header(mq.HeaderAttempt, strconv.Itoa(c.Attempts)),
		header(mq.HeaderOriginCluster, o.Cluster),
	)
	if dead && !small {
		r.Headers = append(r.Headers,
			header(mq.HeaderCause, cutText(c.Cause, maxCauseBytes)),
			header(mq.HeaderDeadAt, strconv.FormatInt(p.e.now().UnixMilli(), 10)))
	}
	return r
}

func header(name, value string) mq.Header { return mq.Header{Name: name, Value: []byte(value)} }

// pause waits; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
