package report

import (
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
)

// Values beyond this are not drawn: no clock and no memory gives them, and a file may hold anything.
const drawable = 1e12

// useLog tells whether values spread so widely that a logarithmic axis shows them better. Such an
// axis has no place for zero and below.
func useLog(low, high float64) bool { return low > 0 && high/low >= 8 }

// setX gives p a horizontal axis from low to high, logarithmic where that shows more.
func setX(p *plot.Plot, low, high float64) {
	if useLog(low, high) {
		p.X.Scale = plot.LogScale{}
		p.X.Min, p.X.Max = roundDown(low/1.02), roundUp(high*1.02)
		p.X.Tick.Marker = logTicks{}
		return
	}
	low = min(low, 0)
	if high <= low {
		high = low + 1
	}
	p.X.Min, p.X.Max = low, high+(high-low)*0.04
	p.X.Tick.Marker = linearTicks{}
}

// roundDown is the greatest of 1, 2 and 5 times a power of ten that is not above v, which is positive.
func roundDown(v float64) float64 {
	decade := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, m := range []float64{5, 2} {
		if m*decade <= v {
			return m * decade
		}
	}
	return decade
}

// roundUp is the least of them that is not below v.
func roundUp(v float64) float64 {
	decade := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, m := range []float64{1, 2, 5} {
		if m*decade >= v {
			return m * decade
		}
	}
	return 10 * decade
}

// logTicks labels the decades, and between them 5, and 2, while there are few decades.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	if low <= 0 || high <= low || math.IsInf(high/low, 0) {
		return nil
	}
	first, last := int(math.Floor(math.Log10(low))), int(math.Ceil(math.Log10(high)))
	every := 1 + (last-first)/8 // decades a label
	decades := math.Log10(high / low)
	labelled := func(m float64) bool { return m == 5 && decades < 2.7 || m == 2 && decades < 1.8 }
	var ticks []plot.Tick
	for exp := first; exp <= last; exp++ {
		for _, m := range []float64{1, 2, 5} {
			v := m * math.Pow10(exp)
			if v < low*0.9999 || v > high*1.0001 {
				continue
			}
			t := plot.Tick{Value: v}
			if m == 1 && (exp-first)%every == 0 || labelled(m) {
				t.Label = number(v)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// linearTicks labels about five round values.
type linearTicks struct{}

func (linearTicks) Ticks(low, high float64) []plot.Tick {
	span := high - low
	if !(span > 0) || math.IsInf(span, 0) {
		return nil
	}
	step := math.Pow10(int(math.Floor(math.Log10(span / 4))))
	for _, m := range []float64{5, 2} {
		if span/(step*m) >= 4 {
			step *= m
			break
		}
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high && len(ticks) < 20; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: number(i * step)})
	}
	return ticks
}

// number writes v with three significant digits, or all digits before the point, and commas.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	abs := math.Abs(v)
	switch {
	case abs == 0:
		return "0"
	case abs >= 1e15 || abs < 1e-4:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	digits := max(0, 2-int(math.Floor(math.Log10(abs))))
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	whole, frac, hasFrac := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if hasFrac {
		whole += "." + frac
	}
	if v < 0 {
		whole = "−" + whole
	}
	return whole
}
