package sluice

// runKey names a run: numbers are a stream's own.
type runKey struct {
	stream *consumeStream
	run    uint64
}

// dispatch decides which delivery may be worked on next: those of one run one after the other, in order, all others in
// parallel. It is pure; the receiver's mutex guards it.
type dispatch struct {
	// free: runs are handed out without waiting for one another; whoever takes them works in order himself.
	free  bool
	ready fifo
	runs  map[runKey]*run
}

type run struct {
	queue []*lease // behind the one that is ready or worked on
}

func (d *dispatch) push(l *lease) {
	if l.d.Run == 0 || d.free {
		d.ready.push(l)
		return
	}
	if r := d.runs[l.runKey()]; r != nil {
		r.queue = append(r.queue, l)
		return
	}
	d.runs[l.runKey()] = &run{}
	d.ready.push(l)
}

// pop is the next delivery to work on, nil for none. Each popped one is to be followed by done.
func (d *dispatch) pop() *lease { return d.ready.pop() }

// done lets the run of a delivery go on.
func (d *dispatch) done(l *lease) {
	if l.d.Run == 0 || d.free {
		return
	}
	r := d.runs[l.runKey()]
	if r == nil {
		return
	}
	if len(r.queue) == 0 {
		delete(d.runs, l.runKey())
		return
	}
	d.ready.push(r.queue[0])
	r.queue = r.queue[1:]
}

// drop takes out what waits and matches.
func (d *dispatch) drop(match func(*lease) bool) (out []*lease) {
	for _, r := range d.runs {
		kept := r.queue[:0]
		for _, l := range r.queue {
			if match(l) {
				out = append(out, l)
			} else {
				kept = append(kept, l)
			}
		}
		clear(r.queue[len(kept):])
		r.queue = kept
	}
	heads := d.ready.drop(match)
	for _, l := range heads {
		d.done(l)
	}
	return append(out, heads...)
}

func (d *dispatch) len() int {
	n := d.ready.len()
	for _, r := range d.runs {
		n += len(r.queue)
	}
	return n
}

// fifo is a queue that reuses its space.
type fifo struct {
	items []*lease
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(l *lease) {
	if f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, l)
}

func (f *fifo) pop() *lease {
	if f.head == len(f.items) {
		return nil
	}
	l := f.items[f.head]
	f.items[f.head] = nil
	f.head++
	return l
}

func (f *fifo) drop(match func(*lease) bool) (out []*lease) {
	kept := f.items[:f.head]
	for _, l := range f.items[f.head:] {
		if match(l) {
			out = append(out, l)
		} else {
			kept = append(kept, l)
		}
	}
	clear(f.items[len(kept):])
	f.items = kept
	return out
}
