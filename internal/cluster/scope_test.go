package cluster

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestDriverOpenedAnewTakesOverItsSeries(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	driver := func(value float64) *scope {
		s := newScope(reg, "k")
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "bytes", Help: "help"})
		g.Set(value)
		s.MustRegister(g)
		return s
	}
	values := func() (vs []float64) {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				vs = append(vs, m.GetGauge().GetValue())
			}
		}
		return vs
	}
	driver(1)
	second := driver(2)
	if got := values(); !slices.Equal(got, []float64{2}) {
		t.Fatalf("series %v, want the newest driver's one", got)
	}
	second.end()
	if got := values(); len(got) != 0 {
		t.Errorf("series %v of a cluster that is gone", got)
	}
}
