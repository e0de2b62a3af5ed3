// What both pages use.

export const $ = id => document.getElementById(id)

export const SAMPLERS = {euler: 'Euler', heun: 'Heun', dpmpp_2m: 'DPM++(2M)', stochastic_heun: 'stochastic Heun'}

export const wholeNumber = input => Math.min(input.max, Math.max(0, Math.floor(+input.value)))

export const number = value => +Number(value).toPrecision(3) + ''

export function onSubmit(form, act) {          // a button or Enter acts; the form is not sent away
  form.onsubmit = event => { event.preventDefault(); act() }
}

export function say(input, text) {             // what a slider stands for, for the eye and for a screen reader
  document.querySelector(`output[for="${input.id}"]`).textContent = text
  input.setAttribute('aria-valuetext', text)
}

export function tell(status, text) {           // a screen reader hears what is new, once
  if (status.textContent != text) status.textContent = text
}

export function choices(select, names) {       // {value: text}
  select.replaceChildren(...Object.entries(names).map(([value, text]) => new Option(text, value)))
}
