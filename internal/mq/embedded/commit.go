package embedded

import (
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluice-mq/sluice/internal/mq"
)

// batchTarget is where a batch is cut: one that is read is held in memory whole, as long as one of its records is.
const batchTarget = 64 << 10

// tx is one group commit being put together.
type tx struct {
	db    *pebble.DB
	batch *pebble.Batch
	now   int64 // ms
	parts map[*partition]*staged
	order []*staged
	after []func() // run once it is synced, before anybody is answered
}

// staged is what a transaction does to one partition.
type staged struct {
	p     *partition
	mark  mark // what the partition's will be
	base  int64
	count int
	buf   []byte
	moved bool // the mark has to be stored
}

// commitLoop is the committer: the only goroutine that writes. Requests that came while it waited for a sync share the next.
func (s *Store) commitLoop() {
	defer close(s.written)
	var group []request
	for {
		group = s.queue.take(group[:0])
		if len(group) == 0 {
			return
		}
		s.commitGroup(group)
		clear(group)
	}
}

func (s *Store) commitGroup(group []request) {
	s.life.RLock()
	defer s.life.RUnlock()
	size := 0
	for _, r := range group {
		size += r.size()
	}
	err := s.writable()
	var full error
	if err == nil && size > 0 {
		full = s.roomFor(size)
	}
	t := &tx{db: s.db, now: s.now().UnixMilli(), parts: make(map[*partition]*staged), batch: s.db.NewBatchWithSize(size + size/8 + 1024)}
	defer t.batch.Close()
	var taken []request
	for _, r := range group {
		if !r.begin() {
			continue
		}
		refusal := err
		if refusal == nil && r.size() > 0 {
			refusal = full
		}
		if refusal == nil {
			refusal = r.stage(t)
		}
		if refusal != nil {
			r.finish(refusal)
			continue
		}
		taken = append(taken, r)
	}
	if len(taken) == 0 {
		return
	}
	s.conclude(taken, s.apply(t))
}

// conclude answers; after an error nobody knows what the disk has, which is what restarts find out.
func (s *Store) conclude(taken []request, err error) {
	if err != nil {
		class := mq.Fatal
		if isSpace(err) {
			class = mq.DiskFull
		}
		err = &mq.Error{Class: class, Broker: broker, Msg: "the write to disk failed", MaybeSent: true, Cause: err}
	}
	for _, r := range taken {
		r.finish(err)
	}
}

// apply writes the transaction with one sync, and then shows it to readers: they see nothing that a power cut could take.
func (s *Store) apply(t *tx) (err error) {
	for _, st := range t.order {
		t.cut(st)
		if st.moved {
			if err := t.batch.Set(partitionKey(st.p.topic, st.p.id.Index), encodeMark(st.mark), nil); err != nil {
				return err
			}
		}
	}
	if !t.batch.Empty() {
		start := time.Now()
		if err := s.sync(t.batch); err != nil {
			return err
		}
		s.m.commitSeconds.Observe(time.Since(start).Seconds())
		s.m.commits.Inc()
	}
	for _, st := range t.order {
		s.m.records.Add(float64(st.mark.end - st.p.end))
		s.m.bytes.Add(float64(st.mark.sum - st.p.sum))
		st.p.set(st.mark, false)
	}
	for _, f := range t.after {
		f()
	}
	return nil
}

// sync commits a batch; Pebble reports a failed commit by a panic of pebbleLog.
func (s *Store) sync(b *pebble.Batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(commitFailure)
			if !ok {
				panic(r)
			}
			err = f.err
			if stop := s.failure.Load(); stop != nil {
				err = stop.cause
			}
		}
	}()
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	if stop := s.failure.Load(); stop != nil {
		// A flush or the like failed meanwhile; the sync of this batch was good, but the instance is not to be trusted.
		return stop.cause
	}
	return nil
}

// part is the transaction's view of a partition.
func (t *tx) part(p *partition) *staged {
	st := t.parts[p]
	if st == nil {
		st = &staged{p: p, mark: p.mark}
		t.parts[p] = st
		t.order = append(t.order, st)
	}
	return st
}

// add appends a record and returns its offset.
func (t *tx) add(st *staged, r *mq.Record) int64 {
	if st.count > 0 && len(st.buf)+r.Bytes() > batchTarget {
		t.cut(st)
	}
	if st.count == 0 {
		st.base = st.mark.end
		// A clock that was set back must not make the batches unsorted by time.
		st.mark.appended = max(st.mark.appended, t.now)
	}
	at := t.now
	if !r.Timestamp.IsZero() {
		at = r.Timestamp.UnixMilli()
	}
	st.mark.maxTime = max(st.mark.maxTime, at)
	st.buf = appendRecord(st.buf, r, at, st.mark.appended)
	st.count++
	st.mark.end++
	return st.mark.end - 1
}

// cut ends the batch that is being filled.
func (t *tx) cut(st *staged) {
	if st.count == 0 {
		return
	}
	st.mark.count = st.count
	st.mark.sum += int64(batchKeyLen + headerLen + len(st.buf))
	op := t.batch.SetDeferred(batchKeyLen, headerLen+len(st.buf))
	batchKey(op.Key[:0], st.p.topic, st.p.id.Index, st.base)
	copy(appendHeader(op.Value[:0], st.mark.header)[headerLen:headerLen+len(st.buf)], st.buf)
	_ = op.Finish() // fails only for indexed batches
	st.buf, st.count = st.buf[:0], 0
}

// trim deletes what is below an offset; first is the first batch that stays (or the end), low its header.sum before it.
func (t *tx) trim(st *staged, below, first, low int64) error {
	if below <= st.mark.start {
		return nil
	}
	err := t.batch.DeleteRange(batchKey(nil, st.p.topic, st.p.id.Index, 0), batchKey(nil, st.p.topic, st.p.id.Index, first), nil)
	if err != nil {
		return err
	}
	st.mark.start, st.mark.low, st.moved = below, low, true
	return nil
}
