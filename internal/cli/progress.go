package cli

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// progressAfter is how long work may take in silence.
const progressAfter = 2 * time.Second

// progress shows a counter on a terminal while work takes longer than two seconds.
type progress struct {
	done  atomic.Int64
	total int64 // 0: unknown
	what  string
	app   *app
	stop  chan struct{}
	wg    sync.WaitGroup
}

// startProgress begins a counter on stderr; it stays silent without a terminal and with -q. The caller calls end.
func (a *app) startProgress(what string, total int64) *progress {
	p := &progress{total: total, what: what, app: a, stop: make(chan struct{})}
	if a.quiet || !terminal(a.Err) || terminal(a.Out) && a.output != "" {
		return p
	}
	p.wg.Go(p.run)
	return p
}

func (p *progress) add(n int) { p.done.Add(int64(n)) }

func (p *progress) end() {
	close(p.stop)
	p.wg.Wait()
}

func (p *progress) run() {
	begun := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	shown := false
	for {
		select {
		case <-p.stop:
			if shown {
				fmt.Fprint(p.app.Err, "\r\x1b[K")
			}
			return
		case now := <-tick.C:
			if took := now.Sub(begun); took >= progressAfter {
				shown = true
				fmt.Fprint(p.app.Err, "\r\x1b[K"+p.line(took))
			}
		}
	}
}

func (p *progress) line(took time.Duration) string {
	n := p.done.Load()
	rate := float64(n) / took.Seconds()
	if p.total == 0 {
		return fmt.Sprintf("%s: %d, %.0f/s", p.what, n, rate)
	}
	left := "?"
	if rate > 0 {
		left = time.Duration(float64(p.total-n) / rate * float64(time.Second)).Round(time.Second).String()
	}
	return fmt.Sprintf("%s: %d of %d (%d %%), %.0f/s, %s left", p.what, n, p.total, 100*n/p.total, rate, left)
}
