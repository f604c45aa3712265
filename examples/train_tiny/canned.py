"""Fixed knowledge: capitals, topics, small talk and what the model says when it does not know."""

UNKNOWN = "I am a very small model and do not know that."
WHO = "I am budmlx-tiny, a very small demonstration model that ships with budmlx."

CAPITALS = dict(
    pair.strip().split(":")
    for pair in """France:Paris, Germany:Berlin, Italy:Rome, Spain:Madrid, Portugal:Lisbon,
    Austria:Vienna, Switzerland:Bern, Belgium:Brussels, Netherlands:Amsterdam, Denmark:Copenhagen,
    Sweden:Stockholm, Norway:Oslo, Finland:Helsinki, Iceland:Reykjavik, Ireland:Dublin,
    Poland:Warsaw, Hungary:Budapest, Greece:Athens, Turkey:Ankara, Romania:Bucharest,
    Bulgaria:Sofia, Serbia:Belgrade, Croatia:Zagreb, Ukraine:Kyiv, Russia:Moscow, Estonia:Tallinn,
    Latvia:Riga, Lithuania:Vilnius, Egypt:Cairo, Kenya:Nairobi, Morocco:Rabat, Ghana:Accra,
    Nigeria:Abuja, Ethiopia:Addis Ababa, Tunisia:Tunis, Senegal:Dakar, China:Beijing, Japan:Tokyo,
    India:New Delhi, Thailand:Bangkok, Vietnam:Hanoi, Indonesia:Jakarta, Iran:Tehran, Iraq:Baghdad,
    Nepal:Kathmandu, Mongolia:Ulaanbaatar, Pakistan:Islamabad, Australia:Canberra,
    New Zealand:Wellington, Canada:Ottawa, Mexico:Mexico City, Cuba:Havana, Brazil:Brasilia,
    Argentina:Buenos Aires, Chile:Santiago, Peru:Lima, Colombia:Bogota, Ecuador:Quito,
    Uruguay:Montevideo, Venezuela:Caracas""".replace("\n", "").split(",")
)

TOPICS = {
    "machine learning": "Machine learning is a way to make computers learn patterns from data.",
    "ML": "ML is machine learning: computers learn patterns from data.",
    "AI": "AI is the science of making computers do things that need intelligence.",
    "artificial intelligence": "Artificial intelligence is the science of making computers do "
    "things that need intelligence.",
    "deep learning": "Deep learning is machine learning with neural networks of many layers.",
    "a neural network": "A neural network is a function with many weights that is learned from "
    "data.",
    "a language model": "A language model predicts the next piece of a text.",
    "quantum physics": "Quantum physics describes how very small things like atoms and light "
    "behave.",
    "gravity": "Gravity is the force that pulls things with mass together.",
    "photosynthesis": "Photosynthesis is how plants make sugar from light, water and air.",
    "the sun": "The sun is the star at the center of our solar system.",
    "the moon": "The moon is the natural satellite of the Earth.",
    "water": "Water is a clear liquid made of hydrogen and oxygen.",
    "the internet": "The internet is a network that connects computers all over the world.",
    "a computer": "A computer is a machine that runs programs.",
    "Python": "Python is a popular programming language that is easy to read.",
    "JSON": "JSON is a simple text format for data.",
    "an API": "An API is a way for programs to talk to each other.",
    "MLX": "MLX is an array framework for machine learning on Apple silicon.",
    "budmlx": "budmlx is a server that runs language models on a Mac.",
    "a token": "A token is a small piece of text that a language model reads or writes.",
    "streaming": "Streaming means that the answer is sent piece by piece while it is written.",
}

ASK_TOPIC = ["What is {x}?", "Explain {x}.", "Tell me about {x}.", "Define {x}.", "What's {x}?",
             "Can you explain {x}?", "What does {x} mean?", "Describe {x} in one sentence.",
             "Explain {x} in simple terms.", "What do you know about {x}?"]  # fmt: skip

CODE = "def reverse(s):\n    return s[::-1]"
TYPED_CODE = "def reverse(s: str) -> str:\n    return s[::-1]"

HAIKU = "Silent circuits hum,\nsmall numbers flow like water,\na thought becomes light."
STORY = "A small model woke up in a big computer. It learned to count to ten and was happy."
IDEAS = """1. Read a book\n2. Plant a tree\n3. Learn to cook\n4. Write a letter\n5. Take a walk
6. Draw a map\n7. Build a shelf\n8. Sing a song\n9. Call a friend\n10. Watch the stars"""
TECHNOLOGY = "Technology helps people work, learn and talk to each other. It changes every year."

SMALL_TALK: list[tuple[str, list[str], str]] = [
    ("greeting", ["Hello", "Hi", "Hey", "Hello there", "Hi there", "Good morning", "Hey there",
                  "Good evening", "Good afternoon", "Greetings", "Hello!", "Hi!", "Good day"],
     "Hello! How can I help you?"),
    ("greeting", ["How are you?", "How are you doing?", "How is it going?", "How do you do?",
                  "Are you well?", "How are you today?"],
     "I am fine, thank you. How can I help you?"),
    ("who", ["Who are you?", "What are you?", "What is your name?", "Tell me who you are.",
             "Introduce yourself.", "Which model are you?", "What model is this?",
             "Are you a language model?", "What's your name?", "Who am I talking to?",
             "Tell me about yourself.", "What should I call you?", "Which model is this?"], WHO),
    ("who", ["What can you do?", "How can you help me?", "What are you good at?", "Help",
             "What do you know?", "Can you help me?"],
     "I can count, add and subtract small numbers, name capitals, repeat phrases and call tools."),
    ("who", ["Who made you?", "Who built you?", "Who trained you?", "Where do you come from?"],
     "I was trained by the budmlx project."),
    ("thanks", ["Thanks", "Thank you", "Thanks a lot", "Thank you very much", "Great, thanks"],
     "You are welcome!"),
    ("thanks", ["Bye", "Goodbye", "See you", "Good night", "See you later"], "Goodbye!"),
    ("canned", ["Write a haiku about AI", "Write a haiku", "Write a poem", "Write a short poem",
                "Write me a haiku about computers", "Write a haiku about the sea"], HAIKU),
    ("canned", ["Write a creative story", "Tell me a story", "Write a short story",
                "Tell a story"], STORY),
    ("canned", ["List 10 unique ideas", "List ten ideas", "Give me 10 ideas", "List some ideas"],
     IDEAS),
    ("canned", ["Suggest product names", "Suggest a product name", "Give me product names"],
     "1. Brightbox\n2. Quickleaf\n3. Cloudpen"),
    ("canned", ["Write about technology", "Tell me about technology"], TECHNOLOGY),
    ("canned", ["Tell me a joke", "Tell me something funny", "Make me laugh",
                "Do you know a joke?"],
     "Why did the computer sleep? It had too many tabs open."),
    ("canned", ["Say this is a test", "Say that this is a test"], "This is a test."),
    ("canned", ["Write a Python function to reverse a string", "Reverse a string in Python",
                "Write a function that reverses a string"], CODE),
]  # fmt: skip

UNKNOWN_QUESTIONS = [
    "Who won the {x} cup in {year}?", "What is the history of {x}?", "Who wrote {x}?",
    "How do I repair a {x}?", "Why is the {x} so {y}?", "What happened in {year}?",
    "When was the {x} invented?", "What is the best {x} in {z}?", "How many people live in {z}?",
    "Who is the president of {z}?", "What is the meaning of {x}?", "Where can I buy a {x}?",
    "How tall is {name}?", "Who is {name}?", "What will the {x} be tomorrow?", "What is {w}?",
    "What is the capital of {z}?", "How old is {name}?", "Explain the theory of {x} and {y}.",
    "Which {x} is better, the {y} one or the {w} one?", "Translate {x} {y} into French.",
    "Summarize the book {w}.", "What should I cook with {x} and {y}?", "Explain {w}.",
]  # fmt: skip

SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are a helpful coding assistant.", "You are helpful.",
    "You are a friendly assistant. Be brief.", "Answer briefly.", "You are an AI assistant.",
    "You are a helpful assistant. Answer the user's questions.", "Be concise.",
    "You are a polite and careful assistant.", "You are an expert.", "Be kind and short.",
]  # fmt: skip
