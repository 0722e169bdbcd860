package bench

import (
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
)

const (
	resamples  = 2000
	confidence = 0.95
	// The seed is fixed so that the same samples always give the same interval.
	seed1, seed2 = 0x61657468, 0x65720000
)

// quantile is the nearest-rank quantile: the smallest sample that at least the share p of all
// samples do not exceed. It is always a value that was measured.
func quantile(p float64, sorted []float64) float64 {
	return stat.Quantile(p, stat.Empirical, sorted, nil)
}

func median(values []float64) float64 { return quantile(0.5, slices.Sorted(slices.Values(values))) }

func mean(values []float64) float64 { return stat.Mean(values, nil) }

// describe computes the Stat of at least one value.
func describe(values []float64, unit string) Stat {
	x := slices.Sorted(slices.Values(values))
	low, high := medianInterval(x)
	return Stat{
		Unit: unit, N: len(x),
		Min: x[0], P50: quantile(0.50, x), P95: quantile(0.95, x), P99: quantile(0.99, x), Max: x[len(x)-1],
		Mean: mean(x), P50Low: low, P50High: high,
	}
}

// medianInterval is the percentile bootstrap confidence interval of the median.
func medianInterval(sorted []float64) (low, high float64) {
	if len(sorted) < 3 {
		return sorted[0], sorted[len(sorted)-1]
	}
	medians := bootstrap(func(r *rand.Rand) float64 { return median(resample(r, sorted)) })
	return quantile((1-confidence)/2, medians), quantile((1+confidence)/2, medians)
}

// bootstrap returns the sorted results of f for every resample.
func bootstrap(f func(*rand.Rand) float64) []float64 {
	r := rand.New(rand.NewPCG(seed1, seed2))
	out := make([]float64, resamples)
	for i := range out {
		out[i] = f(r)
	}
	slices.Sort(out)
	return out
}

func resample(r *rand.Rand, values []float64) []float64 {
	out := make([]float64, len(values))
	for i := range out {
		out[i] = values[r.IntN(len(values))]
	}
	return out
}

// slope is the least-squares slope of y over x.
func slope(x, y []float64) float64 {
	_, beta := stat.LinearRegression(x, y, nil, false)
	return beta
}
